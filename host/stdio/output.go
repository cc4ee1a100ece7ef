package stdio

import (
	"math"
	"net"
	"os"
	"sync"
)

// writeSize is how much is written at once, so that a slow reader is seen to
// make progress.
const writeSize = 16 << 10

// output is one output stream: from the process to containerd's end.
type output struct {
	sink *os.File      // nil drops what comes
	done chan struct{} // closed once the sink is closed

	mu     sync.Mutex
	source net.Conn // set once copying has begun
	ended  bool
	copied uint64
	limit  uint64
}

func newOutput(sink *os.File) *output {
	return &output{sink: sink, done: make(chan struct{}), limit: math.MaxUint64}
}

// copyFrom copies until source ends, the limit is reached or the sink is
// closed. A sink that takes no more, such as a file on a full disk, does not
// stop the process: the rest is dropped.
func (o *output) copyFrom(source net.Conn) {
	defer o.finish()
	var b buffers
	defer b.release()
	n, drop := 0, o.sink == nil
	for {
		buf := b.next(n)
		var err error
		n, err = source.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			part := rest[:min(len(rest), writeSize)]
			rest = rest[len(part):]
			if !drop {
				_, werr := o.sink.Write(part)
				drop = werr != nil
			}
			if o.count(len(part)) {
				return
			}
		}
		if o.count(0) || err != nil {
			return
		}
	}
}

// begin announces copyFrom, and tells whether there is anything to copy.
func (o *output) begin(source net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	if source == nil {
		o.finishLocked()
		return false
	}
	o.source = source
	return true
}

// count adds to the bytes copied and tells whether that was the last of them.
func (o *output) count(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.copied += uint64(n)
	return o.copied >= o.limit
}

func (o *output) total() uint64 {
	if o == nil {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.copied
}

// limitTo lets copying end once n bytes have been copied in all.
func (o *output) limitTo(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limit = min(o.limit, n)
	switch {
	case o.source == nil:
		o.finishLocked()
	case o.copied >= o.limit:
		_ = o.source.SetReadDeadline(past)
	}
}

// close ends copying whatever it waits for.
func (o *output) close() {
	if o == nil {
		return
	}
	o.limitTo(0)
	if o.sink != nil {
		_ = o.sink.Close() // wakes a write that waits for a reader
	}
}

func (o *output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.finishLocked()
}

func (o *output) finishLocked() {
	if o.ended {
		return
	}
	o.ended = true
	if o.sink != nil {
		_ = o.sink.Close()
	}
	close(o.done)
}
