package stdio

import "sync"

// An idle stream waits with a small buffer of its own and borrows a large one
// while much flows, so that a hundred quiet streams cost little.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10 // what a fifo holds
)

type buffers struct {
	small []byte
	large *[largeBuffer]byte
}

// largePool lends buffers to all streams; it holds no state.
var largePool = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// next returns the buffer for the next read, given how much the last one got.
func (b *buffers) next(last int) []byte {
	switch {
	case b.small == nil:
		b.small = make([]byte, smallBuffer)
	case b.large == nil && last == smallBuffer:
		b.large = largePool.Get().(*[largeBuffer]byte)
	case b.large != nil && last < smallBuffer:
		b.release()
	}
	if b.large != nil {
		return b.large[:]
	}
	return b.small
}

func (b *buffers) release() {
	if b.large != nil {
		largePool.Put(b.large)
		b.large = nil
	}
}
