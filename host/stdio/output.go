package stdio

import (
	"math"
	"net"
	"os"
	"sync"
	"time"
)

// writeSize is how much is written at once, and drainSize how much after the
// process has ended, so that a slow reader is seen to make progress: a page, which is
// what a fifo takes in when that much was read.
const (
	writeSize = 16 << 10
	drainSize = 4 << 10
)

// What is left of an output after the process has ended is known to be under way:
// in the pipe, in the agent, in the buffers of the connection. It comes at once, if
// the agent wants. Time that is spent on a slow reader does not count here.
const (
	// MaxUnderWay is more than lies between a process and the shim; what is said to
	// have been written beyond that was not.
	MaxUnderWay = 8 << 20
	// drainGrace and drainRate bound the wait for it: a time, and more for much.
	drainGrace = 10 * time.Second
	drainRate  = 1 << 20 // bytes a second
)

// output is one output stream: from the process to containerd's end.
type output struct {
	sink *os.File      // nil drops what comes
	done chan struct{} // closed once the sink is closed

	mu     sync.Mutex
	source net.Conn // set once copying has begun
	ended  bool
	copied uint64
	limit  uint64

	draining bool
	patience time.Duration // left for waiting for the source, once draining
	since    time.Time     // when the wait for the source began
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
		o.beginRead(source)
		n, err = source.Read(buf)
		size := o.endRead()
		for rest := buf[:n]; len(rest) > 0; {
			part := rest[:min(len(rest), size)]
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

// beginRead bounds the read that follows, if the output is being drained.
func (o *output) beginRead(source net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Now()
	if o.draining && o.copied < o.limit {
		_ = source.SetReadDeadline(o.since.Add(o.patience))
	}
}

// endRead counts the time that the read took, and returns how much is written at
// once.
func (o *output) endRead() (size int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.draining {
		return writeSize
	}
	o.patience -= time.Since(o.since)
	return drainSize
}

// drainTo lets copying end once n bytes have been copied in all, or the source has
// taken too long for what is left of them.
func (o *output) drainTo(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = min(n, o.copied+MaxUnderWay)
	if n > o.copied {
		o.draining, o.since = true, time.Now()
		o.patience = drainGrace + time.Duration(n-o.copied)*time.Second/drainRate
		if o.source != nil {
			_ = o.source.SetReadDeadline(o.since.Add(o.patience))
		}
	}
	o.limitLocked(n)
}

// limitTo lets copying end once n bytes have been copied in all.
func (o *output) limitTo(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limitLocked(n)
}

func (o *output) limitLocked(n uint64) {
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
