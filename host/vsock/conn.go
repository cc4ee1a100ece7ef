package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"kata/host/vhostuser"
)

var (
	errReset    = syscall.ECONNRESET
	errProtocol = errors.New("guest broke the vsock protocol")
)

// lingerTime is how long a closed connection waits for the guest to agree
// that it is closed, as long as Linux waits (VSOCK_CLOSE_TIMEOUT).
const lingerTime = 8 * time.Second

// writeChunk bounds what WriteTo hands to the destination at once, so that
// the guest gets its credit back in parts and keeps sending meanwhile.
const writeChunk = 64 << 10

// Conn is a stream between host and guest. It is a [net.Conn] whose halves
// can be closed apart; reading and writing may go on in different goroutines.
type Conn struct {
	d   *Device
	key key

	readMu  sync.Mutex // one reader at a time
	writeMu sync.Mutex // one writer at a time: what it writes stays together
	decided chan struct{}

	mu       sync.Mutex
	readable *sync.Cond
	writable *sync.Cond
	read     deadline
	write    deadline

	open      bool  // the peer has agreed
	closed    bool  // by Close
	dead      bool  // no packet will be sent or taken any more
	err       error // why it is dead
	forgotten bool  // not in the device's table any more
	released  bool  // holds nothing of the device's any more
	linger    *time.Timer

	sentShut, peerShut uint32

	recv      buffer
	forwarded uint32 // bytes that left recv, modulo 1<<32 like all counters
	told      uint32 // forwarded as the peer knows it

	sent          uint32 // bytes
	peerAlloc     uint32
	peerForwarded uint32

	update *control // a credit update under way; guarded by receiver.mu
}

func newConn(d *Device, k key, alloc int) *Conn {
	c := &Conn{d: d, key: k, decided: make(chan struct{}), recv: buffer{pool: &d.pool, limit: alloc}}
	c.readable, c.writable = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	c.read.cond, c.write.cond = c.readable, c.writable
	return c
}

// unlock gives up mu and, if the connection is over, what it holds.
func (c *Conn) unlock() {
	forget := c.dead && !c.forgotten
	release := c.dead && c.closed && !c.released
	c.forgotten = c.forgotten || forget
	c.released = c.released || release
	c.mu.Unlock()
	if forget {
		c.d.forget(c)
	}
	if release {
		c.d.release(c)
	}
}

// header makes a packet's header. It tells the peer our credit.
func (c *Conn) header(op uint16, flags uint32) header {
	c.told = c.forwarded
	return header{
		srcCID: HostCID, dstCID: c.d.cfg.GuestCID,
		srcPort: c.key.local, dstPort: c.key.peer,
		typ: typeStream, op: op, flags: flags,
		bufAlloc: uint32(c.recv.limit), fwdCnt: c.forwarded,
	}
}

// send sends a packet without data. Its error means that the device is dead.
func (c *Conn) send(op uint16, flags uint32) error {
	return c.d.rx.send(c, c.header(op, flags))
}

// credit is how many bytes the peer has room for.
func (c *Conn) credit() uint32 {
	flight := c.sent - c.peerForwarded
	if flight >= c.peerAlloc {
		return 0
	}
	return c.peerAlloc - flight
}

// connect asks the guest for the connection; decided is closed when it has
// answered.
func (c *Conn) connect() {
	c.mu.Lock()
	defer c.unlock()
	if c.dead {
		return
	}
	if err := c.send(opRequest, 0); err != nil {
		c.die(err)
	}
}

// accept agrees to the connection that h asks for.
func (c *Conn) accept(h *header) error {
	c.mu.Lock()
	defer c.unlock()
	if c.dead {
		return nil
	}
	c.open = true
	close(c.decided)
	c.peerAlloc, c.peerForwarded = h.bufAlloc, h.fwdCnt
	return c.send(opResponse, 0)
}

// established returns why there is no connection, nil if there is.
func (c *Conn) established() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return nil
	}
	return c.err
}

// die ends the connection with mu held. What was received stays readable.
func (c *Conn) die(err error) {
	if c.dead {
		return
	}
	c.dead, c.err = true, err
	if !c.open {
		close(c.decided)
	}
	if c.linger != nil {
		c.linger.Stop()
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// kill ends the connection without telling the guest, which is gone.
func (c *Conn) kill(err error) {
	c.mu.Lock()
	defer c.unlock()
	c.die(err)
}

// abort ends the connection and tells the guest.
func (c *Conn) abort(err error) {
	c.mu.Lock()
	defer c.unlock()
	_ = c.reset(err) // of interest to the guest only
}

// reset is abort with mu held.
func (c *Conn) reset(err error) error {
	if c.dead {
		return nil
	}
	serr := c.send(opReset, 0)
	c.die(err)
	return serr
}

// packet processes a packet of the guest. Its error means that the guest's
// driver is broken.
func (c *Conn) packet(h *header, data *vhostuser.Chain) error {
	c.mu.Lock()
	defer c.unlock()
	if c.dead {
		return c.d.refuse(h)
	}
	if c.peerAlloc != h.bufAlloc || c.peerForwarded != h.fwdCnt {
		c.peerAlloc, c.peerForwarded = h.bufAlloc, h.fwdCnt
		c.writable.Broadcast()
	}
	switch {
	case h.op == opReset:
		return c.peerReset()
	case !c.open && h.op == opResponse:
		c.open = true
		close(c.decided)
		return nil
	case !c.open:
		return c.violation("packet before the response", h)
	case h.op == opData:
		return c.receive(h, data)
	case h.op == opShutdown:
		return c.peerShutdown(h.flags)
	case h.op == opCreditUpdate:
		return nil
	case h.op == opCreditRequest:
		return c.send(opCreditUpdate, 0)
	}
	return c.violation("unexpected packet", h)
}

func (c *Conn) violation(what string, h *header) error {
	c.d.log.Debug("reset vsock connection", "reason", what, "op", h.op, "size", h.size, "local", c.key.local, "peer", c.key.peer)
	return c.reset(errProtocol)
}

func (c *Conn) peerReset() error {
	if !c.open {
		c.die(syscall.ECONNREFUSED)
		return nil
	}
	c.die(errReset)
	return nil
}

func (c *Conn) peerShutdown(flags uint32) error {
	c.peerShut |= flags & shutBoth
	c.readable.Broadcast()
	c.writable.Broadcast()
	if c.peerShut != shutBoth {
		return nil
	}
	// The peer wants neither direction any more and waits for our reset to
	// forget the connection; what it sent before is ours already.
	return c.reset(syscall.EPIPE)
}

// receive takes the data of a packet.
func (c *Conn) receive(h *header, data *vhostuser.Chain) error {
	n := int(h.size)
	switch {
	case c.peerShut&shutSend != 0:
		return c.violation("data after the end", h)
	case uint64(c.recv.n)+uint64(h.size) > uint64(c.recv.limit):
		return c.violation("data beyond the credit", h)
	case n == 0:
		return nil
	case c.closed || c.sentShut&shutReceive != 0:
		c.forwarded += h.size // nobody reads it
		return nil
	}
	first, second := c.recv.space(n)
	for _, p := range [][]byte{first, second} {
		if _, err := data.Read(p); err != nil {
			return err
		}
	}
	c.recv.filled(n)
	c.readable.Broadcast()
	return nil
}

// consumed tells the peer of n bytes that left the buffer once it is worth a
// packet. What stays untold is less than half of the buffer, so that a peer
// without credit always hears of more.
func (c *Conn) consumed(n int) {
	c.forwarded += uint32(n)
	if c.dead || c.closed || int(c.forwarded-c.told) < c.recv.limit/2 {
		return
	}
	_ = c.send(opCreditUpdate, 0) // a dead device shows at the next Read
}

// LocalAddr returns the host's end, an *Addr.
func (c *Conn) LocalAddr() net.Addr { return &Addr{HostCID, c.key.local} }

// RemoteAddr returns the guest's end, an *Addr.
func (c *Conn) RemoteAddr() net.Addr { return &Addr{c.d.cfg.GuestCID, c.key.peer} }

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// deadline is the time limit of one direction; guarded by Conn.mu.
type deadline struct {
	cond    *sync.Cond
	timer   *time.Timer
	epoch   int // counts settings, so that an old timer does no harm
	expired bool
}

// set makes t the deadline, none if it is zero.
func (d *deadline) set(t time.Time) {
	d.stop()
	d.expired = false
	if !t.IsZero() {
		if wait := time.Until(t); wait > 0 {
			epoch := d.epoch
			d.timer = time.AfterFunc(wait, func() { d.expire(epoch) })
		} else {
			d.expired = true
		}
	}
	d.cond.Broadcast()
}

func (d *deadline) expire(epoch int) {
	d.cond.L.Lock()
	defer d.cond.L.Unlock()
	if d.epoch == epoch {
		d.expired = true
		d.cond.Broadcast()
	}
}

func (d *deadline) stop() {
	d.epoch++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.read, &c.write) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.read) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.write) }

func (c *Conn) setDeadlines(t time.Time, ds ...*deadline) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set deadline", net.ErrClosed)
	}
	for _, d := range ds {
		d.set(t)
	}
	return nil
}

// check returns why nothing can be done in one direction by the user's own
// doing.
func (c *Conn) check(d *deadline) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case d.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}
