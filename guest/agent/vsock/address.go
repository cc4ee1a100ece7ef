package vsock

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Listen listens on a vsock port of every context ID this machine has.
func Listen(port uint32) (*Listener, error) {
	name := fmt.Sprintf("vsock port %d", port)
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, os.NewSyscallError("socket", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", name, os.NewSyscallError("bind", err))
	}
	return newListener(fd, name)
}

// ListenUnix listens on a new unix socket at path, mode 0600, which it does not
// remove at Close. A peer that has bound its own socket to a name that ends in
// "." and a number has that number for its PeerPort, as a vsock peer has its
// port.
func ListenUnix(path string) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, os.NewSyscallError("socket", err))
	}
	// The mode of the descriptor is that of the socket file (unix(7)).
	if err := unix.Fchmod(fd, 0o600); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", path, os.NewSyscallError("fchmod", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", path, os.NewSyscallError("bind", err))
	}
	return newListener(fd, path)
}

// Dial connects to a vsock port of another machine. It gives up when ctx ends.
func Dial(ctx context.Context, cid, port uint32) (*Conn, error) {
	name := fmt.Sprintf("vsock %d:%d", cid, port)
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", name, os.NewSyscallError("socket", err))
	}
	return dial(ctx, fd, &unix.SockaddrVM{CID: cid, Port: port}, name, port)
}

// dial connects fd, of which it takes ownership, and waits until it is
// connected or ctx ends.
func dial(ctx context.Context, fd int, peer unix.Sockaddr, name string, port uint32) (*Conn, error) {
	err := unix.Connect(fd, peer)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", name, os.NewSyscallError("connect", err))
	}
	conn, err := newConn(fd, name, port)
	if err != nil {
		return nil, err
	}
	if err := conn.awaitConnect(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	return conn, nil
}

// awaitConnect waits until the socket is writable, which ends a connect in
// progress, and returns how that ended.
func (c *Conn) awaitConnect(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.file.Close() })
	var connectErr error
	err := c.raw.Write(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(poll, 0); n == 0 || errors.Is(err, unix.EINTR) {
			return false
		}
		var code int
		if code, connectErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); connectErr == nil && code != 0 {
			connectErr = unix.Errno(code)
		}
		return true
	})
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return pollError(err)
	}
	return os.NewSyscallError("connect", connectErr)
}

// peerPort returns the port in a peer's address, 0 where there is none.
func peerPort(peer unix.Sockaddr) uint32 {
	switch peer := peer.(type) {
	case *unix.SockaddrVM:
		return peer.Port
	case *unix.SockaddrUnix:
		dot := strings.LastIndexByte(peer.Name, '.')
		port, err := strconv.ParseUint(peer.Name[dot+1:], 10, 32)
		if dot < 0 || err != nil {
			return 0
		}
		return uint32(port)
	}
	return 0
}
