package shim

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

// idleTimeout is how long a server without tasks outlives its last client. It
// covers the time between "start" and containerd's first call; after that such
// a server has been forgotten, by a containerd that died in the wrong moment.
const idleTimeout = 20 * time.Second

// forgottenTimeout is how long a server without tasks outlives its last request
// whoever is connected. A containerd whose call was cut off keeps its connection
// open and never asks for the end.
const forgottenTimeout = 45 * time.Second

// requests knows how many requests are under way.
type requests struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // holds a token after a request came or went
}

func newRequests() *requests { return &requests{changed: make(chan struct{}, 1)} }

// intercept counts a request.
func (r *requests) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	r.add(1)
	defer r.add(-1)
	return method(ctx, unmarshal)
}

func (r *requests) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n += n
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *requests) underWay() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// countingListener knows how many clients are connected.
type countingListener struct {
	net.Listener

	mu      sync.Mutex
	open    int
	changed chan struct{} // holds a token after a client came or went
}

func newCountingListener(l net.Listener) *countingListener {
	return &countingListener{Listener: l, changed: make(chan struct{}, 1)}
}

// Accept waits for a client.
func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.add(1)
	return &countedConn{Conn: conn, listener: l}, nil
}

func (l *countingListener) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open += n
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *countingListener) clients() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// awaitHangUp waits until no client is connected. Nobody else may receive from
// changed.
func (l *countingListener) awaitHangUp(ctx context.Context) error {
	for l.clients() > 0 {
		select {
		case <-l.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

type countedConn struct {
	net.Conn
	listener *countingListener
	once     sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.listener.add(-1) })
	return c.Conn.Close()
}

// watchIdle returns a channel that is closed once the server has had nothing to do
// for long enough, and a function that ends the watch: neither task nor request for
// forgottenTimeout, or no client either for idleTimeout.
func (s *server) watchIdle() (idle <-chan struct{}, stop func()) {
	found, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		since := time.Now() // of having nothing to do
		alone := since      // of having no client
		timer := time.NewTimer(idleTimeout)
		defer timer.Stop()
		for {
			select {
			case <-end:
				return
			case <-timer.C:
				close(found)
				return
			case <-s.tasks.Changed():
				since = time.Now()
			case <-s.requests.changed:
				since = time.Now()
			case <-s.listener.changed:
				alone = time.Now()
			}
			timer.Stop()
			if !s.tasks.Empty() || s.requests.underWay() > 0 {
				continue // its end is told
			}
			left := time.Until(since.Add(forgottenTimeout))
			if s.listener.clients() == 0 {
				left = min(left, max(time.Until(alone.Add(idleTimeout)), time.Until(since.Add(idleTimeout))))
			}
			timer.Reset(max(left, 0))
		}
	}()
	return found, func() { close(end); <-ended }
}
