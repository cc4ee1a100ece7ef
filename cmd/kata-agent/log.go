package main

import (
	"context"
	"io"
	"sync"
	"time"

	"kata/guest/agent/vsock"
)

const (
	// logTimeout is how long the host may take to accept lines of the log.
	logTimeout = time.Second
	// maxEarly bounds the lines that wait for the connection.
	maxEarly = 64 << 10
)

// hostLog is the log of an agent that sends it to the host. Lines wait for the
// connection; without one, or when the host does not take them any more, they go
// to the console: a log must not stop the agent, and it must not be lost.
type hostLog struct {
	console io.Writer

	mu      sync.Mutex // held for a write
	waiting bool
	early   []byte
	conn    *vsock.Conn
}

func newHostLog(console io.Writer) *hostLog { return &hostLog{console: console, waiting: true} }

// Write takes a line.
func (h *hostLog) Write(line []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.waiting && len(h.early)+len(line) <= maxEarly:
		h.early = append(h.early, line...)
		return len(line), nil
	case h.conn != nil:
		return h.send(line)
	}
	return h.console.Write(line)
}

// send writes lines to the host or, when it fails, to the console from then on.
// It needs mu.
func (h *hostLog) send(lines []byte) (int, error) {
	_ = h.conn.SetDeadline(time.Now().Add(logTimeout))
	if n, err := h.conn.Write(lines); err == nil {
		return n, nil
	}
	_ = h.conn.Close()
	h.conn = nil
	return h.console.Write(lines)
}

// use sends the lines to conn from now on, first those that wait. Without conn
// they go to the console.
func (h *hostLog) use(conn *vsock.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	early := h.early
	h.waiting, h.early, h.conn = false, nil, conn
	switch {
	case len(early) == 0:
	case conn != nil:
		_, _ = h.send(early)
	default:
		_, _ = h.console.Write(early)
	}
}

// close gets what has been written to where it goes: the machine may be gone an
// instant later. A nil log has nothing.
func (h *hostLog) close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	waits, conn := h.waiting, h.conn
	h.conn = nil
	h.mu.Unlock()
	switch {
	case waits:
		h.use(nil)
	case conn != nil:
		_ = conn.Linger(lingerSeconds)
		_ = conn.Close()
	}
}

// logToHost connects the log to the host.
func (a *agent) logToHost(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	conn, err := vsock.Dial(ctx, vsock.HostCID, a.params.LogPort)
	if err != nil {
		a.log.Warn("log goes to the console", "port", a.params.LogPort, "error", err)
		a.hostLog.use(nil)
		return
	}
	a.hostLog.use(conn)
}

// logCall logs a call that has been dealt with.
func (a *agent) logCall(service, method string, took time.Duration, err error) {
	log := a.log.Subsystem("rpc")
	if err != nil {
		log.Trace("call", "service", service, "method", method, "took", took, "error", err)
		return
	}
	log.Trace("call", "service", service, "method", method, "took", took)
}
