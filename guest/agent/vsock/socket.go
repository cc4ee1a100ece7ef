// Package vsock gives the agent stream sockets without package net: AF_VSOCK
// listeners and connections between guest and host (vsock(7)), and unix
// sockets in their place for an agent that is debugged outside a VM.
//
// Sockets are raw descriptors in non-blocking mode inside an os.File, so Go's
// poller waits for them and no thread is parked in a system call. It is not a
// replacement for net: there is no name resolution, no datagram, no option.
//
// A Listener listens until Close, which also ends a blocked Accept. A Conn
// belongs to whoever got it from Accept or Dial, and is closed by Close;
// closing ends blocked reads and writes with os.ErrClosed.
package vsock

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// HostCID is the context ID of the host (VMADDR_CID_HOST).
const HostCID = unix.VMADDR_CID_HOST

// backlog of listeners: what may connect between two Accepts. The host opens the
// streams of many processes at once; what is too much is refused by the kernel.
const backlog = 1024

// Conn is a connected stream socket. It is an io.ReadWriteCloser, safe for
// one reader beside one writer.
type Conn struct {
	file *os.File
	raw  syscall.RawConn
	port uint32
}

// newConn takes ownership of a connected, non-blocking descriptor.
func newConn(fd int, name string, port uint32) (*Conn, error) {
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll %s: %w", name, err)
	}
	return &Conn{file: file, raw: raw, port: port}, nil
}

// PeerPort returns the port of the other side, as getpeername(2) gave it when
// the connection was made. For a unix socket see [ListenUnix].
func (c *Conn) PeerPort() uint32 { return c.port }

// Read reads up to len(p) bytes; the end of the peer's data is io.EOF.
func (c *Conn) Read(p []byte) (int, error) { return c.file.Read(p) }

// Write writes all of p, waiting for the peer to take it. A peer that has
// closed is an EPIPE or ECONNRESET and raises no signal.
func (c *Conn) Write(p []byte) (int, error) {
	var written int
	var sendErr error
	err := c.raw.Write(func(fd uintptr) bool {
		for written < len(p) {
			n, err := unix.SendmsgN(int(fd), p[written:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				sendErr = err
				return true
			}
			written += n
		}
		return true
	})
	if err != nil {
		return written, pollError(err)
	}
	return written, os.NewSyscallError("sendmsg", sendErr)
}

// CloseWrite tells the peer that no more data comes; reading goes on.
func (c *Conn) CloseWrite() error { return c.shutdown(unix.SHUT_WR) }

// CloseRead tells the peer that no more data is wanted; writing goes on.
func (c *Conn) CloseRead() error { return c.shutdown(unix.SHUT_RD) }

func (c *Conn) shutdown(how int) error {
	var shutErr error
	if err := c.raw.Control(func(fd uintptr) { shutErr = unix.Shutdown(int(fd), how) }); err != nil {
		return pollError(err)
	}
	return os.NewSyscallError("shutdown", shutErr)
}

// SetDeadline bounds reads and writes, blocked ones included; the zero time
// lifts the bound. What it ends fails with os.ErrDeadlineExceeded.
func (c *Conn) SetDeadline(t time.Time) error { return c.file.SetDeadline(t) }

// Linger makes Close wait until the peer has received everything, for so many
// seconds at most.
func (c *Conn) Linger(seconds int) error {
	var lingerErr error
	if err := c.raw.Control(func(fd uintptr) {
		lingerErr = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)})
	}); err != nil {
		return pollError(err)
	}
	return os.NewSyscallError("setsockopt", lingerErr)
}

// SyscallConn gives the descriptor to those who poll it themselves.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Close closes the connection and frees the descriptor. A second Close returns
// os.ErrClosed.
func (c *Conn) Close() error { return c.file.Close() }

// acceptPause is the wait after an Accept that failed for want of memory or
// descriptors: others have to give some back.
const acceptPause = 20 * time.Millisecond

// Listener accepts stream connections, those on vsock from the host only: no
// process of the guest has any business with the agent.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
	name string
}

// newListener makes a bound descriptor listen and takes ownership of it, also
// when it fails.
func newListener(fd int, name string) (*Listener, error) {
	if err := unix.Listen(fd, backlog); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", name, os.NewSyscallError("listen", err))
	}
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll %s: %w", name, err)
	}
	return &Listener{file: file, raw: raw, name: name}, nil
}

// Accept waits for a connection. It fails when none can come any more; after
// Close with os.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	for {
		conn, peer, err := l.accept()
		switch {
		case err == nil && fromGuest(peer):
			_ = unix.Close(conn)
			continue
		case err == nil:
			return newConn(conn, l.name, peerPort(peer))
		case transient(err):
			time.Sleep(acceptPause)
			continue
		}
		return nil, fmt.Errorf("accept on %s: %w", l.name, err)
	}
}

func (l *Listener) accept() (conn int, peer unix.Sockaddr, err error) {
	pollErr := l.raw.Read(func(fd uintptr) bool {
		for {
			conn, peer, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			switch err {
			case unix.EINTR, unix.ECONNABORTED: // that peer has gone again
				continue
			}
			return err != unix.EAGAIN
		}
	})
	if pollErr != nil {
		return -1, nil, pollError(pollErr)
	}
	return conn, peer, os.NewSyscallError("accept4", err)
}

// transient reports whether accept4(2) may succeed when others have released
// something.
func transient(err error) bool {
	for _, errno := range [...]unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// fromGuest reports whether a vsock connection is not from the host.
func fromGuest(peer unix.Sockaddr) bool {
	vm, ok := peer.(*unix.SockaddrVM)
	return ok && vm.CID != HostCID
}

// Close stops listening. Accepted connections stay.
func (l *Listener) Close() error { return l.file.Close() }

// pollError gives an error of a RawConn the identity that os.File's own methods
// give it: the poller fails for a deadline or because the file is closed.
func pollError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return os.ErrClosed
}
