package sandbox

import (
	"context"
	"sync"
	"time"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/host/undo"
)

const (
	// oomPatience bounds how long an exit waits for the OOM events before it.
	oomPatience = 5 * time.Second
	// oomPause is the time after a failed call for the next event.
	oomPause = time.Second
	// oomBurst is how many events are asked for without a pause, and oomRate how
	// long one more of these takes to come. An agent that tells of kills without
	// end is asked for ten a second.
	oomBurst = 64
	oomRate  = 100 * time.Millisecond
)

// oomEvents counts the OOM events that have been told of each container.
type oomEvents struct {
	mu      sync.Mutex
	told    map[string]uint64
	changed chan struct{} // closed at the next event
}

func newOOMEvents() *oomEvents {
	return &oomEvents{told: make(map[string]uint64), changed: make(chan struct{})}
}

func (o *oomEvents) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told[id]++
	close(o.changed)
	o.changed = make(chan struct{})
}

// forget starts the count of a container that is gone anew.
func (o *oomEvents) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.told, id)
}

// await waits until n events of the container have been told, and reports whether
// they were before ctx or the connection to the agent ended.
func (o *oomEvents) await(ctx context.Context, lost <-chan struct{}, id string, n uint64) bool {
	for {
		o.mu.Lock()
		told, changed := o.told[id], o.changed
		o.mu.Unlock()
		if told >= n {
			return true
		}
		select {
		case <-changed:
		case <-lost:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// watchOOM asks the agent for OOM events and tells them, until the sandbox is
// released.
func (s *Sandbox) watchOOM(tell func(containerID string)) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s.undo.Push("the watch for OOM events", undo.Plain, func(context.Context) error {
		stop()
		<-ended
		return nil
	})
	go func() {
		defer close(ended)
		throttle := newThrottle(oomBurst, oomRate)
		for s.nextOOM(ctx, tell) && throttle.wait(ctx) {
		}
	}()
}

// throttle lets things happen at a rate, with a burst of them at once.
type throttle struct {
	burst int
	every time.Duration
	full  time.Time // when the burst is whole again
}

func newThrottle(burst int, every time.Duration) *throttle {
	return &throttle{burst: burst, every: every}
}

// wait counts one, waits for as long as there are too many, and reports whether ctx
// lasted.
func (p *throttle) wait(ctx context.Context) bool {
	now := time.Now()
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(p.every)
	ahead := p.full.Sub(now) - time.Duration(p.burst)*p.every
	if ahead <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// nextOOM tells the next event, if it is of a container that there is, and reports
// whether there may be another.
func (s *Sandbox) nextOOM(ctx context.Context, tell func(containerID string)) bool {
	resp, err := s.agent.service.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
	if err == nil {
		id, known := s.known(resp.ContainerId)
		if !known {
			s.log.Debug("an OOM event of no container was dropped")
			return true
		}
		s.log.Debug("killed for want of memory", "container", id)
		tell(id)
		s.oom.add(id)
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.agent.lost():
		return false
	default:
	}
	// NotFound is what upstream's agent says of a call that it does not have.
	if code := ttrpc.CodeOf(err); code == ttrpc.Unimplemented || code == ttrpc.NotFound {
		s.log.Warn("the agent does not tell of OOM kills", "error", err)
		return false
	}
	s.log.Warn("ask for OOM events", "error", err)
	pause := time.NewTimer(oomPause)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// known returns the id of a container of the sandbox; the agent's copy of it is not
// kept.
func (s *Sandbox) known(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return "", false
	}
	return c.id, true
}

// awaitOOM waits until the OOM events before an exit have been told. The answers
// of both calls come in any order.
func (s *Sandbox) awaitOOM(id string, events uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), oomPatience)
	defer cancel()
	if !s.oom.await(ctx, s.agent.lost(), id, events) {
		s.log.Warn("an exit is told before an OOM event", "container", id, "events", events)
	}
}
