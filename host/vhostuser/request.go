package vhostuser

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Request is a chain that was taken out of its batch by [Batch.Take], to be served
// elsewhere and for as long as that takes, while the queue goes on. It keeps the
// picture of guest memory that it was taken under: when the memory table changes
// meanwhile, it goes on with what both have.
//
// Its methods are for one goroutine at a time; different requests of a queue are
// independent, and may be done in any order. Every request must be done, also
// after the session has failed: until then the queue cannot stop, nor Serve
// return.
type Request struct {
	chain Chain
	q     *Queue
	p     *picture
	done  atomic.Bool
}

// Take makes the chain that Next has returned one that outlives the batch. It
// takes the place of Done for that chain.
func (b *Batch) Take(c *Chain) *Request {
	r := &Request{q: b.q, p: b.q.windows.of}
	r.chain = Chain{mem: c.mem, head: c.head, in: c.in.clone(), out: c.out.clone()}
	b.q.space.pin(r.p)
	b.q.taken++
	return r
}

func (c cursor) clone() cursor {
	c.segs = append([]segment(nil), c.segs...)
	return c
}

// Readable is as [Chain.Readable].
func (r *Request) Readable() uint64 { return r.chain.Readable() }

// Writable is as [Chain.Writable].
func (r *Request) Writable() uint64 { return r.chain.Writable() }

// Read is as [Chain.Read].
func (r *Request) Read(p []byte) (int, error) { return r.chain.Read(p) }

// Write is as [Chain.Write].
func (r *Request) Write(p []byte) (int, error) { return r.chain.Write(p) }

// Done gives the request back to the driver, as [Batch.Done] does, and shows it at
// once. An error is the session's end; the request is done all the same. A second
// call is a programming error and panics.
func (r *Request) Done(written uint32) error {
	if r.done.Swap(true) {
		panic("vhostuser: a request is done twice")
	}
	q := r.q
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.space.unpin(r.p)
	defer q.gaveBack()
	if q.dead != nil {
		return q.dead
	}
	return q.work(func(b *Batch) error { return b.Done(&r.chain, written) })
}

// gaveBack counts a taken request that is done, with mu held.
func (q *Queue) gaveBack() {
	if q.taken--; q.taken == 0 && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
}

// Canceler is a [Device] that takes requests (Batch.Take).
type Canceler interface {
	// Cancel is called when queue i is about to stop, from the goroutine that
	// reads the VMM's messages: the requests taken from it must be done soon, for
	// the VMM waits, and so does everything else. Stopped follows.
	Cancel(i int)
}

// errFull is for a driver that offers what it has not got back.
var errFull = errors.New("more requests than the queue has entries")

// checkTaken bounds what a driver can make a device hold.
func (q *Queue) checkTaken() error {
	if q.taken >= q.num {
		return fmt.Errorf("%w: %w", ErrDriver, errFull)
	}
	return nil
}
