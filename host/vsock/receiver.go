package vsock

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"kata/host/vhostuser"
)

const (
	// replyLimit is the number of undelivered control packets at which we
	// stop to process the guest's packets, each of which may call for one
	// more (virtio 1.2, 5.10.6.1.2 asks for such extra resources, and a
	// bound). Half of it must be delivered before we go on.
	replyLimit = 256
	// controlLimit is the number at which the host's own requests fail too.
	controlLimit = 4 * replyLimit
	// publishEvery is the number of packets after which a long write lets
	// the guest see them.
	publishEvery = 16
)

// control is a packet without data that waits for a buffer of the guest.
type control struct {
	header
	conn *Conn // whose credit update it is, else nil
}

// receiver is the guest's receive queue: control packets wait in it for
// buffers, data waits in the goroutines that write it.
type receiver struct {
	wakeTransmit func()
	pending      atomic.Int32 // len(control), to look at without the lock

	mu      sync.Mutex
	queue   *vhostuser.Queue // nil until a VMM is there
	control []*control
	waiting map[*Conn]struct{} // want to know of new buffers
	held    bool               // the transmit side waits for room in control
}

// send delivers a control packet of c, nil for a stray reset, now or when the
// guest has a buffer. A credit update that is still waiting is brought up to
// date instead. An error means that the device is dead.
func (r *receiver) send(c *Conn, h header) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &control{header: h}
	if h.op == opCreditUpdate {
		if c.update != nil {
			c.update.header = h
			return nil
		}
		p.conn, c.update = c, p
	}
	r.control = append(r.control, p)
	r.pending.Add(1)
	return r.do(func(b *vhostuser.Batch) error {
		_, err := r.flush(b)
		return err
	})
}

// full reports whether so many control packets wait that a new connection of
// the host's must fail.
func (r *receiver) full() bool {
	return r.pending.Load() >= controlLimit
}

// hold reports whether the guest's packets must wait until it has taken what
// we replied to earlier ones; if so the transmit queue is woken then.
func (r *receiver) hold() bool {
	if r.pending.Load() < replyLimit {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = len(r.control) >= replyLimit
	return r.held
}

// do is Do on the queue; a queue that does not run is one without buffers.
func (r *receiver) do(f func(b *vhostuser.Batch) error) error {
	if r.queue == nil {
		return nil
	}
	err := r.queue.Do(f)
	if errors.Is(err, vhostuser.ErrStopped) {
		return nil
	}
	return err
}

// flush delivers control packets and reports whether none is left.
func (r *receiver) flush(b *vhostuser.Batch) (bool, error) {
	for len(r.control) > 0 {
		c, err := b.Next()
		if c == nil || err != nil {
			return false, err
		}
		p := r.control[0]
		r.control[0] = nil
		r.control = r.control[1:]
		r.pending.Add(-1)
		if p.conn != nil {
			p.conn.update = nil
		}
		if err := put(b, c, &p.header, nil); err != nil {
			return false, err
		}
		if r.held && len(r.control) < replyLimit/2 {
			r.held = false
			r.wakeTransmit()
		}
	}
	r.control = nil
	return true, nil
}

// put fills one buffer with a packet.
func put(b *vhostuser.Batch, c *vhostuser.Chain, h *header, data []byte) error {
	var head [headerSize]byte
	h.marshal(&head)
	n, err := c.Write(head[:])
	if err != nil {
		return err
	}
	if n < headerSize {
		return fmt.Errorf("%w: receive buffer of %d bytes", vhostuser.ErrDriver, n)
	}
	m, err := c.Write(data)
	if err != nil {
		return err
	}
	if m < len(data) {
		return errors.New("packet larger than its buffer")
	}
	return b.Done(c, uint32(n+m))
}

// write sends the first bytes of p on c, whose lock is held, as many as the
// peer's credit and the guest's buffers allow. If that is none for want of
// buffers, c is told when there are some.
func (r *receiver) write(c *Conn, p []byte) (n int, err error) {
	p = p[:min(len(p), int(c.credit()))]
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.do(func(b *vhostuser.Batch) error {
		if clear, err := r.flush(b); !clear || err != nil {
			return err
		}
		for k := 1; n < len(p); k++ {
			ch, err := b.Next()
			if ch == nil || err != nil {
				return err
			}
			if ch.Writable() <= headerSize {
				return fmt.Errorf("%w: receive buffer of %d bytes", vhostuser.ErrDriver, ch.Writable())
			}
			m := int(min(uint64(len(p)-n), ch.Writable()-headerSize, maxData))
			h := c.header(opData, 0)
			h.size = uint32(m)
			if err := put(b, ch, &h, p[n:n+m]); err != nil {
				return err
			}
			n += m
			c.sent += uint32(m) // also lessens the credit
			if k%publishEvery == 0 {
				if err := b.Flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if n < len(p) && err == nil {
		r.wait(c)
	}
	return n, err
}

// wait makes the next buffer wake c's writers.
func (r *receiver) wait(c *Conn) {
	if r.waiting == nil {
		r.waiting = make(map[*Conn]struct{})
	}
	r.waiting[c] = struct{}{}
}

// available reacts to new buffers, and to a queue that has just started.
func (r *receiver) available() error {
	r.mu.Lock()
	err := r.do(func(b *vhostuser.Batch) error {
		_, err := r.flush(b)
		return err
	})
	waiting := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	for c := range waiting {
		c.mu.Lock()
		c.writable.Broadcast()
		c.mu.Unlock()
	}
	return err
}

// attach gives the receiver its queue.
func (r *receiver) attach(q *vhostuser.Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = q
}

// reset forgets what was to be sent to a guest that has gone.
func (r *receiver) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.control {
		if p.conn != nil {
			p.conn.update = nil
		}
	}
	r.control = nil
	r.pending.Store(0)
	r.held = false
	r.wakeTransmit()
}
