package main

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"kata/guest/agent/vsock"
)

const (
	// readyTimeout bounds the attempt to tell the host that the agent listens.
	readyTimeout = 10 * time.Second
	// lingerSeconds is how long the end of a connection may take.
	lingerSeconds = 1
)

// signalReady connects to the host, which is all there is to say. A host that
// does not listen has no need to know.
func (a *agent) signalReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	conn, err := vsock.Dial(ctx, vsock.HostCID, a.params.ReadyPort)
	if err != nil {
		a.log.Debug("readiness not signalled", "error", err)
		return
	}
	_ = conn.Close()
}

// callListener accepts connections for calls.
type callListener struct {
	*vsock.Listener
	ending *atomic.Bool
}

// Accept implements ttrpc.Listener.
func (l callListener) Accept() (io.ReadWriteCloser, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return callConn{conn, l.ending}, nil
}

// callConn is a connection for calls. At the end of the agent it is closed only
// when the last answer has reached the host: the machine may be gone an instant
// later. Before, that would only hold a thread.
type callConn struct {
	*vsock.Conn
	ending *atomic.Bool
}

// Close closes the connection.
func (c callConn) Close() error {
	if c.ending.Load() {
		_ = c.Linger(lingerSeconds) // without it nothing but an answer is lost
	}
	return c.Conn.Close()
}
