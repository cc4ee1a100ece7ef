package ttrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

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
	s.Handle(testService, "Track", ttrpc.Handler{
		New:  func() ttrpc.Message { return new(request) },
		Call: func(context.Context, ttrpc.Message) (ttrpc.Message, error) { return tracked{message, sent}, nil },
	})
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
