package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"kata/guest/vsock"
)

const (
	// readyTimeout bounds the attempt to tell the host that the agent listens.
	readyTimeout = 10 * time.Second
	// logTimeout is how long the host may take to accept a line of the log.
	logTimeout = time.Second
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

// logToHost sends the log to the host from now on, if the host takes it.
func (a *agent) logToHost(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	conn, err := vsock.Dial(ctx, vsock.HostCID, a.params.LogPort)
	if err != nil {
		a.log.Warn("log stays on the console", "error", err)
		return
	}
	a.log.SetOutput(&hostLog{conn: conn, console: os.Stderr})
}

// hostLog writes to the host, and to the console again once the host does not
// listen any more: a log must not stop the agent.
type hostLog struct {
	conn    *vsock.Conn
	console io.Writer
}

func (h *hostLog) Write(line []byte) (int, error) {
	if h.conn != nil {
		_ = h.conn.SetDeadline(time.Now().Add(logTimeout))
		if n, err := h.conn.Write(line); err == nil {
			return n, nil
		}
		_ = h.conn.Close()
		h.conn = nil
	}
	return h.console.Write(line)
}

// callListener accepts connections for calls. They are closed only when the last
// answer has reached the host: the machine may be gone an instant later.
type callListener struct{ *vsock.Listener }

// Accept implements ttrpc.Listener.
func (l callListener) Accept() (io.ReadWriteCloser, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	_ = conn.Linger(lingerSeconds) // without it nothing but an answer is lost
	return conn, nil
}

// idle gives memory back to the machine when there has been no call for a while.
type idle struct{ timer *time.Timer }

func newIdle() idle {
	return idle{time.AfterFunc(idleAfter, func() {
		runtime.GC() // a sync.Pool survives one collection
		debug.FreeOSMemory()
	})}
}

// called says that there is, or was, a call.
func (i idle) called() { i.timer.Reset(idleAfter) }
