package vsock

import (
	"fmt"
	"net"
	"sync"
	"syscall"
)

// listener accepts the guest's connections to one port of the host.
type listener struct {
	d     *Device
	port  uint32
	queue chan *Conn    // guarded for sending by Device.mu
	done  chan struct{} // closed by Close
	once  sync.Once
}

// Listen implements [Dialer]. Connections are
// answered at once, whether or not somebody waits in Accept; as many as
// Config.Backlog wait for it. It fails with an error that wraps EADDRINUSE if
// the port has a listener, and ErrGone.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fail := func(err error) error {
		return &net.OpError{Op: "listen", Net: "vsock", Addr: &Addr{HostCID, port}, Err: err}
	}
	switch {
	case d.dead != nil:
		return nil, fail(d.dead)
	case d.listeners[port] != nil:
		return nil, fail(syscall.EADDRINUSE)
	}
	l := &listener{d: d, port: port, queue: make(chan *Conn, d.cfg.Backlog), done: make(chan struct{})}
	d.listeners[port] = l
	return l, nil
}

// Accept implements [net.Listener]. After Close its error wraps net.ErrClosed,
// after the VM's end ErrGone.
func (l *listener) Accept() (net.Conn, error) {
	var err error
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		err = net.ErrClosed
	case <-l.d.gone:
		err = l.d.err()
	}
	return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: err}
}

// Close implements [net.Listener]. Connections that nobody accepted are reset.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.d.mu.Lock()
		delete(l.d.listeners, l.port)
		close(l.done)
		l.d.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				c.abort(net.ErrClosed)
				_ = c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}

// Addr implements [net.Listener] with an *Addr.
func (l *listener) Addr() net.Addr { return &Addr{HostCID, l.port} }

// request is a guest's wish to connect: it is accepted if somebody listens
// and the bounds allow, else reset.
func (d *Device) request(h *header) error {
	c, err := d.admit(h)
	if err != nil {
		d.log.Debug("refused guest's vsock connection", "port", h.dstPort, "err", err)
		return d.refuse(h)
	}
	// The response goes first: once the listener has the connection,
	// somebody may write.
	if err := c.accept(h); err != nil {
		return err
	}
	d.mu.Lock()
	l := d.listeners[h.dstPort]
	ok := l != nil
	if ok {
		select {
		case l.queue <- c:
		default:
			ok = false
		}
	}
	d.mu.Unlock()
	if !ok {
		c.abort(net.ErrClosed)
		_ = c.Close()
	}
	return nil
}

// admit registers the connection that h asks for.
func (d *Device) admit(h *header) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.listeners[h.dstPort]
	switch {
	case l == nil:
		return nil, syscall.ECONNREFUSED
	case len(l.queue) == cap(l.queue):
		return nil, fmt.Errorf("backlog of %d is full: %w", cap(l.queue), syscall.ENOBUFS)
	}
	return d.addConn(key{local: h.dstPort, peer: h.srcPort})
}
