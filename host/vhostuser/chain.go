package vhostuser

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
	descSize     = 16
)

// desc is a private copy of a descriptor.
type desc struct {
	addr  uint64
	size  uint32
	flags uint16
	next  uint16
}

func makeDesc(lo, hi uint64) desc {
	return desc{addr: lo, size: uint32(hi), flags: uint16(hi >> 32), next: uint16(hi >> 48)}
}

// segment is a checked piece of guest memory.
type segment struct {
	addr, size uint64
}

// Chain is one buffer that the driver offers: bytes for the device to read,
// then room for it to write. It is valid until the next call of [Batch.Next]
// or the end of the [Queue.Do] it came from.
type Chain struct {
	mem  Memory
	head uint16
	in   cursor // what the device reads
	out  cursor // what it writes
}

// cursor walks over segments.
type cursor struct {
	segs []segment
	pos  int    // segment
	off  uint64 // in it
	left uint64 // bytes from here to the end
}

func (c *cursor) reset() { *c = cursor{segs: c.segs[:0]} }

func (c *cursor) add(addr, size uint64) {
	c.segs = append(c.segs, segment{addr, size})
	c.left += size
}

// step hands out the address of at most n bytes and moves past them.
func (c *cursor) step(n uint64) (addr, size uint64) {
	s := c.segs[c.pos]
	addr, size = s.addr+c.off, min(n, s.size-c.off)
	c.off += size
	c.left -= size
	if c.off == s.size {
		c.pos++
		c.off = 0
	}
	return addr, size
}

// Readable is the number of bytes that Read has yet to return.
func (c *Chain) Readable() uint64 { return c.in.left }

// Writable is the number of bytes that Write still takes.
func (c *Chain) Writable() uint64 { return c.out.left }

// Read copies the next bytes of the buffer to p and returns how many, fewer
// than len(p) only at the buffer's end. An error wraps [ErrFrontend].
func (c *Chain) Read(p []byte) (n int, err error) {
	defer recoverFault(&err, guard())
	for n < len(p) && c.in.left > 0 {
		addr, size := c.in.step(uint64(len(p) - n))
		if err := c.mem.Read(addr, p[n:n+int(size)]); err != nil {
			return n, err
		}
		n += int(size)
	}
	return n, nil
}

// Write copies p to the next bytes of the buffer's room and returns how many
// fitted. An error wraps [ErrFrontend].
func (c *Chain) Write(p []byte) (n int, err error) {
	defer recoverFault(&err, guard())
	for n < len(p) && c.out.left > 0 {
		addr, size := c.out.step(uint64(len(p) - n))
		if err := c.mem.Write(addr, p[n:n+int(size)]); err != nil {
			return n, err
		}
		n += int(size)
	}
	return n, nil
}

// walker fills a chain from the descriptors behind a head.
type walker struct {
	mem      Memory
	table    Window
	num      int  // entries in the table, and the longest legal chain
	indirect bool // whether the driver negotiated indirect descriptors
	scratch  []byte
}

// walk reads the chain that starts at head into c. Each descriptor is copied
// once and then checked; the chain cannot be longer than the queue, which
// also ends loops.
func (w *walker) walk(head uint16, c *Chain) error {
	c.mem, c.head = w.mem, head
	c.in.reset()
	c.out.reset()
	at := head
	for count := 0; ; {
		if int(at) >= w.num {
			return fmt.Errorf("%w: descriptor %d in a queue of %d", ErrDriver, at, w.num)
		}
		d := makeDesc(w.table.LoadDesc(int(at) * descSize))
		if d.flags&descIndirect != 0 {
			return w.walkIndirect(d, count, c)
		}
		if count++; count > w.num {
			return fmt.Errorf("%w: descriptor chain longer than its queue of %d", ErrDriver, w.num)
		}
		if err := c.add(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		at = d.next
	}
}

// walkIndirect reads the table that d refers to, which ends the chain.
func (w *walker) walkIndirect(d desc, count int, c *Chain) error {
	n := int(d.size / descSize)
	switch {
	case !w.indirect:
		return fmt.Errorf("%w: indirect descriptor without the feature", ErrDriver)
	case d.flags&descNext != 0:
		return fmt.Errorf("%w: indirect descriptor with a successor", ErrDriver)
	case d.size == 0 || d.size%descSize != 0:
		return fmt.Errorf("%w: indirect table of %d bytes", ErrDriver, d.size)
	case count+n > w.num:
		return fmt.Errorf("%w: indirect table of %d descriptors in a queue of %d", ErrDriver, n, w.num)
	case !w.mem.Contains(d.addr, uint64(d.size)):
		return fmt.Errorf("%w: indirect table at %#x is not memory", ErrDriver, d.addr)
	}
	// One copy of the whole table: what is checked is what is used.
	w.scratch = slices.Grow(w.scratch[:0], int(d.size))[:d.size]
	if err := w.mem.Read(d.addr, w.scratch); err != nil {
		return err
	}
	for at, seen := 0, 0; ; {
		if at >= n {
			return fmt.Errorf("%w: indirect descriptor %d in a table of %d", ErrDriver, at, n)
		}
		b := w.scratch[at*descSize:]
		d := makeDesc(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
		if d.flags&descIndirect != 0 {
			return fmt.Errorf("%w: indirect descriptor inside an indirect table", ErrDriver)
		}
		if seen++; seen > n {
			return fmt.Errorf("%w: loop in an indirect table of %d", ErrDriver, n)
		}
		if err := c.add(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		at = int(d.next)
	}
}

// add checks d and appends it.
func (c *Chain) add(d desc) error {
	if !c.mem.Contains(d.addr, uint64(d.size)) {
		return fmt.Errorf("%w: buffer at %#x, %d bytes, is not memory", ErrDriver, d.addr, d.size)
	}
	if c.in.left+c.out.left+uint64(d.size) > 1<<32-1 {
		return fmt.Errorf("%w: descriptor chain of more than 4 GiB", ErrDriver)
	}
	if d.flags&descWrite != 0 {
		if d.size > 0 {
			c.out.add(d.addr, uint64(d.size))
		}
		return nil
	}
	if len(c.out.segs) > 0 {
		return fmt.Errorf("%w: readable descriptor after a writable one", ErrDriver)
	}
	if d.size > 0 {
		c.in.add(d.addr, uint64(d.size))
	}
	return nil
}
