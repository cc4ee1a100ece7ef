package vhostuser

import "fmt"

// Batch is the use of a queue inside one [Queue.Do].
type Batch struct {
	q     *Queue
	chain Chain
	taken int // chains, in this Do
}

// Next takes the next buffer the driver offers. It returns nil if there is
// none, or if one Do has taken as many as the queue has entries, so that a busy
// driver cannot keep others from the queue; in both cases [Device.Available]
// is called once there is one. Every chain taken must be given back by Done, or
// taken out of the batch by Take.
// An error wraps [ErrDriver] or [ErrFrontend] and
// must be returned from the Do.
func (b *Batch) Next() (c *Chain, err error) {
	defer recoverFault(&err, guard())
	q := b.q
	if b.taken >= q.num {
		q.Wake()
		return nil, nil
	}
	if q.cached == q.lastAvail {
		if err := q.poll(); err != nil {
			return nil, err
		}
		if q.cached == q.lastAvail {
			if err := q.arm(); err != nil || q.cached == q.lastAvail {
				return nil, err
			}
		}
	}
	if err := q.checkTaken(); err != nil {
		return nil, err
	}
	head := q.windows.avail.Load16(ringEntries + 2*(int(q.lastAvail)%q.num))
	if err := q.walker.walk(head, &b.chain); err != nil {
		return nil, err
	}
	q.lastAvail++
	b.taken++
	return &b.chain, nil
}

// poll reads the driver's index.
func (q *Queue) poll() error {
	idx := q.windows.avail.Load16(ringIdx)
	if ahead := idx - q.lastAvail; int(ahead) > q.num {
		return fmt.Errorf("%w: available index %d is %d ahead in a queue of %d", ErrDriver, idx, ahead, q.num)
	}
	q.cached = idx
	return nil
}

// arm asks the driver to kick when it adds a buffer, then looks once more for
// one that was added meanwhile.
func (q *Queue) arm() error {
	if q.features&featureEventIdx != 0 {
		q.windows.used.Store16(ringEntries+8*q.num, q.lastAvail)
	} else if q.quiet {
		q.quiet = false
		q.storeUsed(q.published)
	}
	q.late.Reset(lateAfter)
	return q.poll()
}

// Done gives a chain back to the driver with the first written bytes of its
// room filled. The driver sees it at the next Flush.
func (b *Batch) Done(c *Chain, written uint32) (err error) {
	defer recoverFault(&err, guard())
	q := b.q
	at := ringEntries + 8*(int(q.used)%q.num)
	q.windows.used.Store32(at, uint32(c.head))
	q.windows.used.Store32(at+4, written)
	q.used++
	return nil
}

// Flush shows the driver the chains done so far and interrupts it if it wants
// that. Do flushes at its end; a device with much to do may flush earlier to
// keep the driver busy meanwhile.
func (b *Batch) Flush() (err error) {
	defer recoverFault(&err, guard())
	q := b.q
	if q.used == q.published {
		return nil
	}
	old := q.published
	q.quiet = q.features&featureEventIdx == 0 && q.cached != q.lastAvail
	q.storeUsed(q.used)
	q.published = q.used
	if q.wantsInterrupt(old) {
		q.interrupt()
	} else {
		q.late.Reset(lateAfter)
	}
	q.signalled = true
	return nil
}

// storeUsed publishes the index of the used ring and our wish about kicks,
// which share a word.
func (q *Queue) storeUsed(idx uint16) {
	v := uint32(idx) << 16
	if q.quiet {
		v |= usedNoNotify
	}
	q.windows.used.Store32(0, v)
}

// wantsInterrupt decides after publishing whether the driver asked for an
// interrupt between old and now (virtio 1.2, 2.7.7.2 and 2.7.10).
func (q *Queue) wantsInterrupt(old uint16) bool {
	if q.features&featureEventIdx == 0 {
		return q.windows.avail.Load16(0)&availNoInterrupt == 0
	}
	if !q.signalled {
		return true
	}
	event := q.windows.avail.Load16(ringEntries + 2*q.num)
	return q.used-event-1 < q.used-old
}
