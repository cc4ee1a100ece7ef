package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"kata/host/unixsocket"
)

// Hybrid is the vsock of a VMM that brings its own device and offers it as
// unix sockets, as Cloud Hypervisor does (its docs/vsock.md): the host
// connects to one socket and names the port in a line of text; the guest's
// connections to port P arrive at the socket with "_P" appended to its path.
type Hybrid struct {
	Path     string // of the VMM's socket
	GuestCID uint64
}

// maxGreeting bounds the VMM's answer, "OK 4294967295\n" at the longest.
const maxGreeting = 32

// Dial implements [Dialer]. It does not wait for the guest: a VMM that cannot
// reach a listener at once closes the connection, which is reported as
// ECONNREFUSED.
func (h *Hybrid) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	remote := &Addr{h.GuestCID, port}
	c, err := h.dial(ctx, remote)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: remote, Err: err}
	}
	return c, nil
}

func (h *Hybrid) dial(ctx context.Context, remote *Addr) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", h.Path)
	if err != nil {
		return nil, err
	}
	c := &hybridConn{UnixConn: conn.(*net.UnixConn), remote: remote}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	port, err := c.handshake()
	if !stop() && err == nil {
		err = ctx.Err() // the deadline is set or about to be
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, errors.Join(err, conn.Close())
	}
	c.local = &Addr{HostCID, port}
	return c, nil
}

// handshake names the port and returns the one that the guest sees.
func (c *hybridConn) handshake() (uint32, error) {
	if _, err := fmt.Fprintf(c.UnixConn, "CONNECT %d\n", c.remote.Port); err != nil {
		return 0, refused(err)
	}
	// Byte by byte: what follows the line is the guest's.
	var line []byte
	for !bytes.HasSuffix(line, []byte("\n")) {
		if len(line) == maxGreeting {
			return 0, fmt.Errorf("VMM answered %q", line)
		}
		var b [1]byte
		if _, err := io.ReadFull(c.UnixConn, b[:]); err != nil {
			return 0, refused(err)
		}
		line = append(line, b[0])
	}
	digits, ok := bytes.CutPrefix(line[:len(line)-1], []byte("OK "))
	port, err := strconv.ParseUint(string(digits), 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("VMM answered %q", line)
	}
	return uint32(port), nil
}

// refused names what it means when the VMM hangs up.
func refused(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return syscall.ECONNREFUSED
	}
	return err
}

// Listen implements [Dialer].
func (h *Hybrid) Listen(port uint32) (net.Listener, error) {
	addr := &Addr{HostCID, port}
	path := h.Path + "_" + strconv.FormatUint(uint64(port), 10)
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: addr, Err: err}
	}
	return &hybridListener{UnixListener: l, addr: addr, guest: h.GuestCID}, nil
}

// hybridListener gives connections vsock addresses.
type hybridListener struct {
	*net.UnixListener
	addr  *Addr
	guest uint64
}

// Accept implements [net.Listener].
func (l *hybridListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.addr, Err: err}
	}
	return &hybridConn{UnixConn: c, local: l.addr, remote: &Addr{CID: l.guest}}, nil
}

// Addr implements [net.Listener] with an *Addr.
func (l *hybridListener) Addr() net.Addr { return l.addr }

// hybridConn is a unix socket that is a vsock stream. Half closes and
// deadlines are the unix socket's.
type hybridConn struct {
	*net.UnixConn
	local, remote *Addr
}

// LocalAddr returns the host's end, an *Addr.
func (c *hybridConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the guest's end, an *Addr; its port is 0 if the guest
// connected, since the VMM does not tell it.
func (c *hybridConn) RemoteAddr() net.Addr { return c.remote }
