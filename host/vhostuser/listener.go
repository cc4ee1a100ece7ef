package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"kata/host/unixsocket"
)

// Listener is the unix socket that one VMM connects to.
type Listener struct {
	path string
	l    *net.UnixListener

	once sync.Once
}

// Listen makes a socket at path that only this user can connect to. Close
// removes it.
func Listen(path string) (*Listener, error) {
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // Close does, and tells of errors
	return &Listener{path: path, l: l}, nil
}

// Accept waits for the VMM, stops listening and removes the socket: there is
// no second VMM. It ends early with ctx or Close.
func (l *Listener) Accept(ctx context.Context) (*net.UnixConn, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.l.AcceptUnix()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("wait for VMM on %s: %w", l.path, err)
	}
	if err := l.Close(); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Close stops listening and removes the socket. Repeating it does nothing.
func (l *Listener) Close() (err error) {
	l.once.Do(func() {
		err = errors.Join(l.l.Close(), os.Remove(l.path))
	})
	return err
}
