package vsock

import (
	"encoding/binary"
	"fmt"

	"kata/host/vhostuser"
)

// Queues (virtio 1.2, 5.10.2). QEMU serves the event queue itself and hands
// over the other two.
const (
	rxQueue = iota
	txQueue
	eventQueue
	queues
)

// eventTransportReset tells the driver that its connections are gone.
const eventTransportReset = 0

// backend is the device as its VMM and driver see it.
type backend struct {
	*Device
}

// Features implements [vhostuser.Device]: plain stream sockets need none.
func (b backend) Features() uint64 { return 0 }

// Queues implements [vhostuser.Device].
func (b backend) Queues() int { return queues }

// Config implements [vhostuser.Device].
func (b backend) Config() []byte { return b.config() }

// Attach implements [vhostuser.Device].
func (b backend) Attach(qs []*vhostuser.Queue) {
	b.queues = qs
	b.rx.attach(qs[rxQueue])
}

// Started implements [vhostuser.Device]. A driver that is new, or restored
// from elsewhere, knows none of our connections.
func (b backend) Started(i int, how vhostuser.Start) {
	if how != vhostuser.StartResumed && i != eventQueue {
		b.reset()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if how == vhostuser.StartTakenOver && i != eventQueue {
		b.taken = true
	}
	was := b.running()
	b.up[i] = true
	if !was && b.running() {
		b.log.Debug("guest's vsock driver is up")
		close(b.ready)
	}
}

// Stopped implements [vhostuser.Device]. Connections wait: the VM may only be
// paused.
func (b backend) Stopped(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running() && i != eventQueue {
		b.ready = make(chan struct{})
	}
	b.up[i] = false
}

func (d *Device) running() bool { return d.up[rxQueue] && d.up[txQueue] }

// Available implements [vhostuser.Device].
func (b backend) Available(i int) error {
	switch i {
	case rxQueue:
		return b.rx.available()
	case txQueue:
		return b.transmit()
	}
	return b.announce()
}

// reset kills all connections because the driver that had them is gone.
func (d *Device) reset() {
	d.mu.Lock()
	conns := d.conns
	d.conns = make(map[key]*Conn)
	d.mu.Unlock()
	for _, c := range conns {
		c.kill(errReset)
	}
	d.rx.reset()
}

// announce tells a driver that had connections with an earlier back-end that
// they are lost.
func (d *Device) announce() error {
	d.mu.Lock()
	taken := d.taken
	d.mu.Unlock()
	if !taken {
		return nil
	}
	return d.queues[eventQueue].Do(func(b *vhostuser.Batch) error {
		c, err := b.Next()
		if c == nil || err != nil {
			return err
		}
		n, err := c.Write(binary.LittleEndian.AppendUint32(nil, eventTransportReset))
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.taken = false
		d.mu.Unlock()
		return b.Done(c, uint32(n))
	})
}

// transmit processes the packets that the guest has sent.
func (d *Device) transmit() error {
	return d.queues[txQueue].Do(func(b *vhostuser.Batch) error {
		for !d.rx.hold() { // else the receiver wakes us
			c, err := b.Next()
			if c == nil || err != nil {
				return err
			}
			if err := d.packet(c); err != nil {
				return err
			}
			if err := b.Done(c, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// packet processes one packet of the guest. An error means that its driver is
// broken; packets that merely make no sense are reset or dropped.
func (d *Device) packet(c *vhostuser.Chain) error {
	var head [headerSize]byte
	n, err := c.Read(head[:])
	if err != nil {
		return err
	}
	if n < headerSize {
		return fmt.Errorf("%w: packet of %d bytes", vhostuser.ErrDriver, n)
	}
	h := parseHeader(&head)
	if uint64(h.size) > c.Readable() {
		return fmt.Errorf("%w: packet says %d bytes of data and has %d", vhostuser.ErrDriver, h.size, c.Readable())
	}
	if h.srcCID != d.cfg.GuestCID {
		d.log.Debug("dropped vsock packet of a foreign CID", "cid", h.srcCID)
		return nil
	}
	if h.dstCID != HostCID || h.typ != typeStream {
		return d.refuse(&h)
	}
	d.mu.Lock()
	conn := d.conns[key{local: h.dstPort, peer: h.srcPort}]
	d.mu.Unlock()
	switch {
	case conn != nil:
		return conn.packet(&h, c)
	case h.op == opRequest:
		return d.request(&h)
	}
	return d.refuse(&h)
}

// refuse resets the connection that h believes in.
func (d *Device) refuse(h *header) error {
	if h.op == opReset {
		return nil
	}
	return d.rx.send(nil, h.refusal())
}
