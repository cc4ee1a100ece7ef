package oom

import (
	"context"
	"slices"
	"sync"
	"time"

	"kata/guest/agent/log"
	"kata/guest/fault"
)

const (
	// maxPending is the number of containers whose events wait; it must be above
	// the number of containers that exist.
	maxPending = 2048
	// patience is how long an exit waits for the next step of whoever takes
	// events, and maxDelay how long in all.
	patience = 3 * time.Second
	maxDelay = 10 * time.Second
)

// queue holds what has not been told yet.
type queue struct {
	log   *log.Logger
	ended chan struct{} // closed when nobody is to wait any more

	// mu guards what follows and all accounts. Nothing blocks under it.
	mu      sync.Mutex
	pending []*account // with events that wait, the longest first
	waiting []chan *Event
	// progress is when somebody last asked for an event or delivered one.
	progress time.Time
	changed  chan struct{} // closed at the next delivery; nil if nobody waits for it
}

// account counts the events of one container.
type account struct {
	id string
	// posted is how many there have been, taken how many of them are in
	// somebody's hands, done how many have been delivered.
	posted, taken, done uint64
	closed              bool // the container is gone
}

func (a *account) waits() bool { return a.posted > a.taken+a.done }

// Event is one kill, in the hands of the one who took it.
type Event struct {
	queue   *queue
	account *account
}

// ContainerID is the container's in which it happened.
func (e *Event) ContainerID() string { return e.account.id }

// Done says that the event has been delivered or, with an error, that it has not
// and is for somebody else. It is called once and does not block.
func (e *Event) Done(err error) {
	q := e.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	e.account.taken--
	if err != nil {
		q.pend(e.account)
		q.hand()
		return
	}
	e.account.done++
	q.advance()
}

// post adds n events.
func (q *queue) post(a *account, n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a.posted += n
	q.pend(a)
	q.hand()
}

// pend lets the account wait, in its place if it does already.
func (q *queue) pend(a *account) {
	if slices.Contains(q.pending, a) {
		return
	}
	if len(q.pending) >= maxPending {
		q.drop()
	}
	q.pending = append(q.pending, a)
}

// drop forgets the events of the container that is gone and has waited longest.
func (q *queue) drop() {
	i := slices.IndexFunc(q.pending, func(a *account) bool { return a.closed })
	if i < 0 {
		return
	}
	a := q.pending[i]
	q.log.Warn("OOM events of a removed container dropped: nobody asks for them", "container", a.id, "events", a.posted-a.taken-a.done)
	q.pending = slices.Delete(q.pending, i, i+1)
	a.posted = a.taken + a.done
}

// hand gives events to those who wait for one, the latest first.
func (q *queue) hand() {
	for len(q.waiting) > 0 {
		e := q.take()
		if e == nil {
			return
		}
		last := len(q.waiting) - 1
		q.waiting[last] <- e
		q.waiting = slices.Delete(q.waiting, last, last+1)
	}
}

// take returns the event that is next, nil without one.
func (q *queue) take() *Event {
	if len(q.pending) == 0 {
		return nil
	}
	a := q.pending[0]
	a.taken++
	if !a.waits() {
		q.pending = slices.Delete(q.pending, 0, 1)
		if len(q.pending) == 0 {
			q.pending = nil
		}
	}
	q.advance()
	return &Event{queue: q, account: a}
}

// advance notes that somebody takes events.
func (q *queue) advance() {
	q.progress = time.Now()
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// next waits until ctx ends for an event.
func (q *queue) next(ctx context.Context) (_ *Event, err error) {
	q.mu.Lock()
	q.advance()
	if e := q.take(); e != nil {
		q.mu.Unlock()
		return e, nil
	}
	mine := make(chan *Event, 1)
	q.waiting = append(q.waiting, mine)
	q.mu.Unlock()
	select {
	case e := <-mine:
		if err := ctx.Err(); err != nil {
			e.Done(err) // there is nobody any more who would get it
			return nil, err
		}
		return e, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-q.ended:
		err = ErrClosed
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, mine)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		(<-mine).Done(err)
	}
	return nil, err
}

// ErrClosed says that the watcher has been closed.
var ErrClosed = fault.New(fault.Gone, "OOM kills are not watched any more")

// awaitDelivered waits until every event of the account up to now has been delivered, as
// long as somebody takes events.
func (q *queue) awaitDelivered(a *account) {
	end := time.Now().Add(maxDelay)
	q.mu.Lock()
	defer q.mu.Unlock()
	for goal := a.posted; a.done < goal; {
		now := time.Now()
		limit := q.progress.Add(patience)
		if limit.After(end) {
			limit = end
		}
		if !limit.After(now) {
			return
		}
		if q.changed == nil {
			q.changed = make(chan struct{})
		}
		changed := q.changed
		q.mu.Unlock()
		timer := time.NewTimer(limit.Sub(now))
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		q.mu.Lock()
	}
}
