package stream

import "sync"

const (
	// largeBuffer is as much as a pipe holds by default and a vsock packet may
	// carry (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE): one system call moves it all.
	largeBuffer = 64 << 10
	// smallBuffer is what streams get when many are busy at once.
	smallBuffer = 4 << 10
	// maxLarge bounds the memory of a burst: 16 streams go at full speed.
	// A stream whose reader is stuck keeps its buffer, so there is never a wait
	// for one.
	maxLarge = 16
)

// Buffers lends memory to streams while data is in hand; an idle stream has
// none.
type Buffers struct {
	used   func()
	tokens chan struct{}
	large  sync.Pool
}

// NewBuffers returns buffers to be shared by all streams of the agent. Each time
// one is given back used is called, which must be cheap; it may be nil.
func NewBuffers(used func()) *Buffers {
	return &Buffers{used: used, tokens: make(chan struct{}, maxLarge)}
}

// get lends a buffer. It never blocks.
func (b *Buffers) get() []byte {
	select {
	case b.tokens <- struct{}{}:
	default:
		return make([]byte, smallBuffer)
	}
	if buf, ok := b.large.Get().(*[largeBuffer]byte); ok {
		return buf[:]
	}
	return make([]byte, largeBuffer)
}

// put takes a buffer of get back.
func (b *Buffers) put(buf []byte) {
	if b.used != nil {
		b.used()
	}
	if cap(buf) < largeBuffer {
		return
	}
	b.large.Put((*[largeBuffer]byte)(buf[:largeBuffer]))
	<-b.tokens
}
