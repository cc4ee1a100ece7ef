package ttrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"kata/api/ttrpc"
)

// tracked is an answer that reports what became of it.
type tracked struct {
	ttrpc.Message
	sent chan error
}

func (a tracked) Sent(err error) { a.sent <- err }

// tracking returns a server whose Track answers with message, and where the fate
// of the answer is told.
func tracking(message ttrpc.Message) (*ttrpc.Server, <-chan error) {
	sent := make(chan error, 1)
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	s.Handle(testService, "Track", always(tracked{message, sent}))
	return s, sent
}

func TestAnAnswerIsToldThatItWasSent(t *testing.T) {
	s, sent := tracking(&response{Metrics: "x"})
	c := connect(t, s)
	if got, err := call(t.Context(), c, "Track", ""); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("Sent(%v)", err)
	}
}

func TestAnAnswerIsToldThatItWasNotSent(t *testing.T) {
	s, sent := tracking(brokenMessage{})
	if _, err := call(t.Context(), connect(t, s), "Track", ""); ttrpc.CodeOf(err) != ttrpc.Internal {
		t.Error(err)
	}
	if err := <-sent; err == nil {
		t.Error("an answer that cannot be encoded was sent")
	}

	s, sent = tracking(&response{Metrics: "x"})
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.ServeConn(t.Context(), deaf{far}) }()
	c := ttrpc.NewClient(near)
	defer c.Close()
	go func() { _, _ = call(t.Context(), c, "Track", "") }()
	if err := <-sent; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Sent(%v), want %v", err, io.ErrClosedPipe)
	}
	<-served
}

// deaf is a connection whose other side has gone, unnoticed so far.
type deaf struct{ net.Conn }

func (deaf) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// slow is a connection that takes until released to close, as one does that waits
// for its peer.
type slow struct {
	net.Conn
	once             sync.Once
	closing, release chan struct{}
}

func (s *slow) Close() error {
	first := false
	s.once.Do(func() { first = true })
	if !first {
		return net.ErrClosed // as os.File
	}
	err := s.Conn.Close()
	close(s.closing)
	<-s.release
	return err
}

func TestServingEndsWhenTheConnectionIsClosed(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	conn := &slow{Conn: far, closing: make(chan struct{}), release: make(chan struct{})}
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	served := make(chan error)
	go func() { served <- s.ServeConn(t.Context(), conn) }()
	_ = s.Close()
	<-conn.closing
	select {
	case err := <-served:
		t.Errorf("served before it was closed: %v", err)
	case <-time.After(50 * time.Millisecond): // it can only be too long
	}
	close(conn.release)
	if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
		t.Error(err)
	}
}

func TestEachCallIsToldWhenItIsDone(t *testing.T) {
	type done struct {
		method string
		err    error
	}
	told := make(chan done, 2)
	s := standard(ttrpc.NewServer(ttrpc.ServerOptions{OnDone: func(service, method string, took time.Duration, err error) {
		if service != testService || took < 0 {
			t.Errorf("%s took %v", service, took)
		}
		told <- done{method, err}
	}}))
	c := connect(t, s)
	if _, err := call(t.Context(), c, "Echo", "x"); err != nil {
		t.Error(err)
	}
	if got := <-told; got.method != "Echo" || got.err != nil {
		t.Errorf("told %+v", got)
	}
}

// single is a listener that accepts one connection.
type single struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *single) Accept() (io.ReadWriteCloser, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *single) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// TestShutdownAnswersWhatServeHasAccepted: the listener goes first, which must not
// take the connections along.
func TestShutdownAnswersWhatServeHasAccepted(t *testing.T) {
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	called, release := make(chan struct{}), make(chan struct{})
	handle(s, "Last", func(ctx context.Context, arg string) (string, error) {
		close(called)
		select {
		case <-release:
			return arg, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	near, far := net.Pipe()
	l := &single{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- far
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l) }()
	c := ttrpc.NewClient(near)
	defer c.Close()
	answered := make(chan error, 1)
	go func() {
		got, err := call(t.Context(), c, "Last", "words")
		if err == nil && got != "words" {
			err = errors.New("it says " + got)
		}
		answered <- err
	}()
	<-called
	shut := make(chan error, 1)
	go func() { shut <- s.Shutdown(t.Context()) }()
	<-l.closed
	select {
	case err := <-served:
		t.Fatalf("it stopped serving before the last answer: %v", err)
	case <-time.After(50 * time.Millisecond): // it can only be too long
	}
	close(release)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := <-shut; err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
		t.Error(err)
	}
}
