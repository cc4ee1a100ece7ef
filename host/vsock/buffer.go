package vsock

import "sync"

// smallBuffer holds what control connections have in flight; a connection
// that gets more at once moves to a buffer of its full size.
const smallBuffer = 4 << 10

// buffer is a connection's receive buffer: a ring of bytes. It has no memory
// while empty but for a small ring.
type buffer struct {
	pool  *pool
	limit int    // bytes it may hold
	ring  []byte // its storage
	head  int    // first byte
	n     int    // bytes held
	lent  bool   // a slice of ring is in use outside the lock
}

// space makes room for n more bytes, which the caller has checked against
// limit, and returns where they go, in order.
func (b *buffer) space(n int) (first, second []byte) {
	if b.n+n > len(b.ring) {
		b.grow(b.n + n)
	}
	at := (b.head + b.n) % len(b.ring)
	first = b.ring[at:min(at+n, len(b.ring))]
	return first, b.ring[:n-len(first)]
}

func (b *buffer) grow(need int) {
	size := smallBuffer
	if need > size {
		size = b.limit
	}
	ring := b.pool.get(size)
	n := copy(ring, b.ring[b.head:min(b.head+b.n, len(b.ring))])
	copy(ring[n:], b.ring[:b.n-n])
	b.recycle()
	b.ring, b.head = ring, 0
}

// filled adds the n bytes written to space.
func (b *buffer) filled(n int) { b.n += n }

// front returns the first bytes held, as many as are contiguous.
func (b *buffer) front() []byte {
	return b.ring[b.head:min(b.head+b.n, len(b.ring))]
}

// read moves bytes to p.
func (b *buffer) read(p []byte) int {
	n := copy(p, b.front())
	b.drop(n)
	if n < len(p) && b.n > 0 {
		m := copy(p[n:], b.front())
		b.drop(m)
		n += m
	}
	return n
}

// drop removes the first n bytes.
func (b *buffer) drop(n int) {
	b.n -= n
	if b.n > 0 {
		b.head = (b.head + n) % len(b.ring)
		return
	}
	b.head = 0
	if len(b.ring) > smallBuffer {
		b.release()
	}
}

// release forgets all content and gives the memory back.
func (b *buffer) release() {
	b.recycle()
	b.ring, b.head, b.n, b.lent = nil, 0, 0, false
}

// recycle gives the ring back, unless somebody still reads it.
func (b *buffer) recycle() {
	if !b.lent {
		b.pool.put(b.ring)
	}
}

// pool keeps a few buffers of full size, so that a stream that fills and
// empties its buffer does not allocate each time.
type pool struct {
	size int

	mu   sync.Mutex
	free [][]byte
}

// pooled is the number of buffers kept.
const pooled = 4

func (p *pool) get(size int) []byte {
	if size == p.size {
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.free); n > 0 {
			b := p.free[n-1]
			p.free = p.free[:n-1]
			return b
		}
	}
	return make([]byte, size)
}

func (p *pool) put(b []byte) {
	if len(b) != p.size {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < pooled {
		p.free = append(p.free, b)
	}
}
