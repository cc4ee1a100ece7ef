package shim

import (
	"context"
	"net"
	"sync"
	"time"
)

// idleTimeout is how long a server without tasks outlives its last client. It
// covers the time between "start" and containerd's first call; after that such
// a server has been forgotten, by a containerd that died in the wrong moment.
const idleTimeout = 20 * time.Second

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

// watchIdle returns a channel that is closed once there has been neither task
// nor client for the limit, and a function that ends the watch.
func (s *server) watchIdle(limit time.Duration) (idle <-chan struct{}, stop func()) {
	found, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(limit)
		defer timer.Stop()
		for {
			select {
			case <-end:
				return
			case <-timer.C:
				close(found)
				return
			case <-s.tasks.Changed():
			case <-s.listener.changed:
			}
			timer.Stop()
			if s.tasks.Empty() && s.listener.clients() == 0 {
				timer.Reset(limit)
			}
		}
	}()
	return found, func() { close(end); <-ended }
}
