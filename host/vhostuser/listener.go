package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path a unix socket address holds.
const maxSocketPath = 107

// Listener is the unix socket that one VMM connects to.
type Listener struct {
	path string
	l    *net.UnixListener

	once sync.Once
}

// Listen makes a socket at path that only this user can connect to. Close
// removes it.
func Listen(path string) (*Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: path of %d bytes, a socket's has at most %d", path, len(path), maxSocketPath)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Between bind and listen nobody can connect, so that the mode is right
	// from the first moment, whatever the umask.
	l, err := func() (net.Listener, error) {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, err
		}
		if err := unix.Listen(fd, 1); err != nil {
			return nil, err
		}
		return net.FileListener(f)
	}()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), os.Remove(path))
	}
	return &Listener{path: path, l: l.(*net.UnixListener)}, nil
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
