package ttrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

// TestMain fails the package when a goroutine of it outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines that run code of this package and do
// not end within two seconds.
func leaked() string {
	var left []string
	for deadline := time.Now().Add(pace.Of(2 * time.Second)); time.Now().Before(deadline); runtime.Gosched() {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = nil
		for _, g := range strings.Split(string(buf), "\n\n")[1:] {
			if strings.Contains(g, "kata/api/ttrpc.") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// The service of the tests: every method takes and returns one string. The
// types stand for any message whose field 1 is a string.
const testService = "test.Service"

type (
	request  = agentpb.StartContainerRequest
	response = agentpb.Metrics
)

// handle registers a method of testService.
func handle(s *ttrpc.Server, method string, f func(ctx context.Context, arg string) (string, error)) {
	s.Handle(testService, method, func(payload []byte) (ttrpc.Call, error) {
		req := new(request)
		if err := req.UnmarshalVT(payload); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (ttrpc.Answer, error) {
			s, err := f(ctx, req.ContainerId)
			return &response{Metrics: s}, err
		}, nil
	})
}

// always is a handler that gives one answer.
func always(answer ttrpc.Answer) ttrpc.Handler {
	return func([]byte) (ttrpc.Call, error) {
		return func(context.Context) (ttrpc.Answer, error) { return answer, nil }, nil
	}
}

// call calls a method of testService.
func call(ctx context.Context, c *ttrpc.Client, method, arg string) (string, error) {
	resp := new(response)
	err := c.Call(ctx, testService, method, &request{ContainerId: arg}, resp)
	return resp.Metrics, err
}

// echo, fail and block are what most tests need.
func standard(s *ttrpc.Server) *ttrpc.Server {
	handle(s, "Echo", func(_ context.Context, arg string) (string, error) { return arg, nil })
	handle(s, "Block", func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	return s
}

// connect serves one end of a pipe and returns a client on the other; both end
// with the test, in which nothing may have gone wrong with the connection but
// its end, which may come in the middle of the request of a call given up.
func connect(t testing.TB, s *ttrpc.Server) *ttrpc.Client {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.ServeConn(context.Background(), far) }()
	c := ttrpc.NewClient(near)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
		err := <-served
		for _, end := range []error{ttrpc.ErrServerClosed, io.ErrClosedPipe, io.ErrUnexpectedEOF} {
			if errors.Is(err, end) {
				return
			}
		}
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c
}

// listener hands out the server's ends of pipes.
type listener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *listener) accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Accept() (io.ReadWriteCloser, error) {
	conn, err := l.accept()
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) dial() net.Conn {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
	case <-l.done:
		_ = far.Close()
	}
	return near
}

// netListener is a listener for containerd's server.
type netListener struct{ *listener }

func (l netListener) Accept() (net.Conn, error) { return l.accept() }
func (l netListener) Addr() net.Addr            { return &net.UnixAddr{Name: "test", Net: "unix"} }
