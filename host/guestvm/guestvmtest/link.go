package guestvmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/host/vmm"
	"kata/host/vsock"
)

// Link is a fake of the vsock device: connections are socket pairs. The guest's
// side of it is [Link.Guest].
type Link struct {
	faults *Faults

	gone chan struct{}

	mu     sync.Mutex
	broken error
	next   uint32
	host   map[uint32]*listener // ports of the host
	guest  map[uint32]*listener
	conns  map[*conn]struct{}
	hungUp bool
}

// NewLink makes a link whose steps are "link.listen", "link.dial PORT" and
// "link.close".
func NewLink(f *Faults) *Link {
	return &Link{
		faults: f, gone: make(chan struct{}), next: 1 << 16,
		host: make(map[uint32]*listener), guest: make(map[uint32]*listener), conns: make(map[*conn]struct{}),
	}
}

// Attach implements guestvm.Link.
func (l *Link) Attach(spec *vmm.Spec) { spec.Vsock = &vmm.Vsock{Socket: "fake"} }

// Run implements guestvm.Link.
func (l *Link) Run(ctx context.Context) error {
	select {
	case <-l.gone:
	case <-ctx.Done():
		l.end(context.Cause(ctx), false)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hungUp {
		return nil
	}
	return l.broken
}

// Close implements guestvm.Link.
func (l *Link) Close() error {
	if err := l.faults.at(context.Background(), "link.close"); err != nil {
		return err
	}
	l.end(net.ErrClosed, false)
	return nil
}

// Break makes the link fail, as when the guest breaks a rule.
func (l *Link) Break(err error) { l.end(err, false) }

// HangUp is the end of the machine.
func (l *Link) HangUp() { l.end(vsock.ErrGone, true) }

func (l *Link) end(reason error, hungUp bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return
	}
	l.broken, l.hungUp = reason, hungUp
	close(l.gone)
	for c := range l.conns {
		_ = c.UnixConn.Close()
	}
}

// Dial implements vsock.Dialer.
func (l *Link) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	err := l.faults.at(ctx, fmt.Sprint("link.dial ", port))
	var c net.Conn
	if err == nil {
		c, err = l.connect(ctx, l.guest, port, vsock.HostCID, api.GuestCID)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: &vsock.Addr{CID: api.GuestCID, Port: port}, Err: err}
	}
	return c, nil
}

// Listen implements vsock.Dialer.
func (l *Link) Listen(port uint32) (net.Listener, error) {
	if err := l.faults.at(context.Background(), "link.listen"); err != nil {
		return nil, err
	}
	return l.listen(l.host, vsock.HostCID, port)
}

// Guest is the guest's side of a link.
type Guest struct{ link *Link }

// Guest returns the guest's side.
func (l *Link) Guest() Guest { return Guest{l} }

// Dial connects to a port of the host.
func (g Guest) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return g.link.connect(ctx, g.link.host, port, api.GuestCID, vsock.HostCID)
}

// Listen listens on a port of the guest.
func (g Guest) Listen(port uint32) (net.Listener, error) {
	return g.link.listen(g.link.guest, api.GuestCID, port)
}

func (l *Link) connect(ctx context.Context, to map[uint32]*listener, port, fromCID, toCID uint32) (net.Conn, error) {
	l.mu.Lock()
	if l.broken != nil {
		defer l.mu.Unlock()
		return nil, l.broken
	}
	there := to[port]
	l.next++
	local := &vsock.Addr{CID: uint64(fromCID), Port: l.next}
	l.mu.Unlock()
	if there == nil {
		return nil, syscall.ECONNREFUSED
	}
	remote := &vsock.Addr{CID: uint64(toCID), Port: port}
	near, far, err := l.pair(local, remote)
	if err != nil {
		return nil, err
	}
	select {
	case there.waiting <- far:
		return near, nil
	case <-there.closed:
		err = syscall.ECONNREFUSED
	case <-l.gone:
		err = vsock.ErrGone
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(err, near.Close(), far.Close())
}

func (l *Link) listen(on map[uint32]*listener, cid, port uint32) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	if on[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	made := &listener{link: l, on: on, addr: &vsock.Addr{CID: uint64(cid), Port: port}, waiting: make(chan *conn), closed: make(chan struct{})}
	on[port] = made
	return made, nil
}

type listener struct {
	link    *Link
	on      map[uint32]*listener
	addr    *vsock.Addr
	waiting chan *conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.waiting:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.link.gone:
		return nil, vsock.ErrGone
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.link.mu.Lock()
		defer l.link.mu.Unlock()
		delete(l.on, l.addr.Port)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// conn is one end of a connection.
type conn struct {
	*net.UnixConn
	link          *Link
	local, remote *vsock.Addr
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.UnixConn.Close()
}

func (l *Link) pair(local, remote *vsock.Addr) (near, far *conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ends := [2]*conn{{link: l, local: local, remote: remote}, {link: l, local: remote, remote: local}}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		c, fileErr := net.FileConn(f)
		err = errors.Join(err, fileErr, f.Close())
		if fileErr == nil {
			ends[i].UnixConn = c.(*net.UnixConn)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.broken != nil {
		err = l.broken
	}
	if err != nil {
		for _, c := range ends {
			if c.UnixConn != nil {
				_ = c.UnixConn.Close()
			}
		}
		return nil, nil, err
	}
	l.conns[ends[0]], l.conns[ends[1]] = struct{}{}, struct{}{}
	return ends[0], ends[1], nil
}
