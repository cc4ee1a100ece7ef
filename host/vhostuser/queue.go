package vhostuser

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStopped is returned by [Queue.Do] while the driver or the VMM has the
// queue stopped. It is no failure: the queue may start again.
var ErrStopped = errors.New("virtqueue is stopped")

// maxQueueSize is the largest split ring (virtio 1.2, 2.7).
const maxQueueSize = 32768

// Used and available ring layout (virtio 1.2, 2.7.6 and 2.7.8).
const (
	availNoInterrupt = 1
	usedNoNotify     = 1
	ringIdx          = 2
	ringEntries      = 4
)

// Queue is one virtqueue. Its methods may be called from any goroutine; a
// device gets it from [Device.Attach] and works on it by Do.
type Queue struct {
	index int
	space *space
	fail  func(error) // ends the session

	kick atomic.Pointer[kicker]

	mu       sync.Mutex // guards everything below; a leaf but for device locks taken inside Do
	features uint64
	num      int
	addr     vringAddr
	hasAddr  bool
	enabled  bool
	dead     error
	call     caller // used and replaced under mu

	// Where the device stands in the rings.
	lastAvail uint16 // next entry of the available ring to take
	cached    uint16 // the driver's index when last read
	used      uint16 // next entry of the used ring to fill
	published uint16 // used as the driver last saw it
	signalled bool   // the driver was interrupted since the start
	quiet     bool   // the driver was asked not to kick
	told      uint16 // used when the driver was last interrupted
	late      *time.Timer

	// Where it stood when it was stopped, to tell a resumed queue from one
	// that a new driver set up.
	stopped struct {
		valid bool
		base  uint16
		addr  vringAddr
	}

	windows struct {
		of                *picture
		desc, avail, used Window
	}
	running bool

	taken int           // requests that are not done
	idle  chan struct{} // closed when none is left; nil unless somebody waits

	walker walker
	batch  Batch
}

func newQueue(index int, s *space, fail func(error)) *Queue {
	q := &Queue{index: index, space: s, fail: fail, call: caller{fd: -1}}
	q.batch.q = q
	q.late = time.AfterFunc(lateAfter, q.lookAgain)
	q.late.Stop()
	return q
}

// lateAfter is when a queue is looked at again after a decision that would leave
// the driver, or us, asleep. It is long against what a processor may take to show
// its writes to the others, and short against what a person notices.
const lateAfter = time.Millisecond

// lookAgain repeats the last decisions of a queue: not to interrupt the driver,
// and to wait for its kick. They rest on memory barriers on both sides, between
// the write of one index and the look at the other's wish. QEMU leaves those of
// the driver out where it emulates a single processor (CF_PARALLEL in its TCG),
// although we are a processor too: each side could wait for the other for ever.
// An interrupt or a look too many does no harm.
func (q *Queue) lookAgain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead != nil || !q.running {
		return
	}
	p := q.space.acquire()
	defer q.space.release(p)
	err := q.look(p)
	if err == nil {
		err = q.decideAgain()
	}
	if err != nil {
		q.dead = fmt.Errorf("queue %d: %w", q.index, err)
		q.fail(q.dead)
	}
}

func (q *Queue) decideAgain() (err error) {
	defer recoverFault(&err, guard())
	if q.windows.avail.Load16(ringIdx) != q.lastAvail {
		q.Wake()
	}
	if q.published != q.told && q.wantsInterrupt(q.told) {
		q.interrupt()
	}
	return nil
}

// interrupt interrupts the driver.
func (q *Queue) interrupt() {
	q.told = q.published
	q.call.interrupt()
}

// Do runs f with exclusive use of the queue and a fixed picture of guest
// memory, then shows the driver what f finished and interrupts it if it asked
// for that. It returns [ErrStopped] without running f while the queue is
// stopped. Any other error, also f's, is the guest's or the VMM's fault and
// ends the session.
//
// f must be short and must not wait for anything that needs this queue.
// Nesting is allowed between different queues in one fixed order.
func (q *Queue) Do(f func(b *Batch) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead != nil {
		return q.dead
	}
	if !q.running {
		return ErrStopped
	}
	return q.work(f)
}

// work runs f on the queue, with mu held.
func (q *Queue) work(f func(b *Batch) error) error {
	p := q.space.acquire()
	defer q.space.release(p)
	err := q.look(p)
	if err == nil {
		q.batch.taken = 0
		err = f(&q.batch)
		if ferr := q.batch.Flush(); err == nil {
			err = ferr
		}
	}
	if err != nil {
		q.dead = fmt.Errorf("queue %d: %w", q.index, err)
		q.fail(q.dead)
		return q.dead
	}
	return nil
}

// Wake makes the server call [Device.Available] for the queue soon, as if the
// driver had kicked it. It does nothing while the queue is stopped, and may be
// called anywhere, also inside a Do.
func (q *Queue) Wake() {
	if k := q.kick.Load(); k != nil {
		k.wake()
	}
}

// look finds the rings in p, once a picture.
func (q *Queue) look(p *picture) error {
	if q.windows.of == p {
		return nil
	}
	n := uint64(q.num)
	desc, err := p.Window(q.addr.desc, n*descSize, 16)
	if err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	// Both rings have a field for EVENT_IDX behind their entries.
	avail, err := p.Window(q.addr.avail, ringEntries+2*n+2, 2)
	if err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	used, err := p.Window(q.addr.used, ringEntries+8*n+2, 4)
	if err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	q.windows.of, q.windows.desc, q.windows.avail, q.windows.used = p, desc, avail, used
	q.walker.mem, q.walker.table, q.walker.num = p.table, desc, q.num
	q.walker.indirect = q.features&featureIndirect != 0
	return nil
}

// ready reports whether the front-end has said all a queue needs to run.
func (q *Queue) ready() bool {
	return q.num > 0 && q.hasAddr && q.kick.Load() != nil && q.enabled
}

// how tells what kind of start would come now.
func (q *Queue) how() Start {
	switch {
	case q.stopped.valid && q.stopped.base == q.lastAvail && q.stopped.addr == q.addr:
		return StartResumed
	case !q.stopped.valid && q.lastAvail != 0:
		return StartTakenOver
	}
	return StartFresh
}

// start lets Do work. The device must know already, since its other
// goroutines may use the queue at once.
func (q *Queue) start() (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.space.acquire()
	defer q.space.release(p)
	if err := q.look(p); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	defer recoverFault(&err, guard())
	q.used = q.windows.used.Load16(ringIdx)
	q.published, q.cached, q.told = q.used, q.lastAvail, q.used
	q.signalled, q.quiet = false, false
	q.running = true
	q.Wake()
	return nil
}

// halt stops Do, waiting for one in progress, and returns where it stopped.
// It reports whether the queue was running. Requests that were taken from it are
// waited for, after cancel was called: the driver gets them back before it is told
// that the queue has stopped.
func (q *Queue) halt(cancel func()) (base uint16, was bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	was = q.running
	q.running = false
	if q.taken > 0 {
		idle := make(chan struct{})
		q.idle = idle
		q.mu.Unlock()
		cancel()
		<-idle
		q.mu.Lock()
	}
	q.late.Stop()
	q.windows.of = nil
	if was {
		q.stopped.valid, q.stopped.base, q.stopped.addr = true, q.lastAvail, q.addr
	}
	return q.lastAvail, was
}

// setCall replaces the descriptor that interrupts the driver, -1 for none.
func (q *Queue) setCall(fd int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.call.set(fd)
	if q.running {
		// What was finished between two descriptors must not be lost.
		q.call.interrupt()
	}
}
