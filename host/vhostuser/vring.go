package vhostuser

import (
	"fmt"
)

// handleVring obeys the messages that concern one queue.
func (s *session) handleVring(m *message) ([]byte, error) {
	switch m.request {
	case reqSetVringNum, reqSetVringBase, reqSetVringEnable, reqGetVringBase:
		st, err := parseVringState(m.payload)
		if err != nil {
			return nil, err
		}
		q, err := s.queue(st.index)
		if err != nil {
			return nil, err
		}
		if m.request == reqGetVringBase {
			base := s.stop(q)
			return vringState{index: st.index, value: uint32(base)}.payload(), nil
		}
		if err := q.setState(m.request, st.value); err != nil {
			return nil, err
		}
		return nil, s.update()
	case reqSetVringAddr:
		a, err := parseVringAddr(m.payload)
		if err != nil {
			return nil, err
		}
		q, err := s.queue(a.index)
		if err != nil {
			return nil, err
		}
		if err := q.setAddr(a); err != nil {
			return nil, err
		}
		return nil, s.update()
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return nil, s.setVringFD(m)
	default:
		return nil, fmt.Errorf("%w: unknown or not negotiated request", ErrFrontend)
	}
}

func (s *session) queue(index uint32) (*Queue, error) {
	if int64(index) >= int64(len(s.queues)) {
		return nil, fmt.Errorf("%w: queue %d of %d", ErrFrontend, index, len(s.queues))
	}
	return s.queues[index], nil
}

// setVringFD takes the descriptor of a kick, call or error event.
func (s *session) setVringFD(m *message) error {
	v, err := parseU64(m.payload)
	if err != nil {
		return err
	}
	q, err := s.queue(uint32(v & vringIndexMask))
	if err != nil {
		return err
	}
	n := 1
	if v&vringNoFD != 0 {
		n = 0
	}
	if err := m.wantFDs(n); err != nil {
		return err
	}
	switch {
	case m.request == reqSetVringErr:
		return nil // nobody to tell: errors end the session
	case m.request == reqSetVringCall && n == 0:
		q.setCall(-1)
		return nil
	case m.request == reqSetVringCall:
		if err := checkEventFD(m.fds[0]); err != nil {
			return err
		}
		q.setCall(m.fds.take(0))
		return nil
	case n == 0:
		return fmt.Errorf("%w: queue %d without a kick descriptor would have to be polled", ErrFrontend, q.index)
	}
	return s.setKick(q, m.fds.take(0))
}

// setKick starts to wait for kicks on fd, which it takes over.
func (s *session) setKick(q *Queue, fd int) error {
	k, err := newKicker(fd)
	if err != nil {
		return err
	}
	s.dropKick(q.kick.Swap(k))
	s.kickers.Go(func() {
		k.run(func() error { return s.dev.Available(q.index) }, func(err error) {
			s.fail(fmt.Errorf("queue %d: %w", q.index, err))
		})
	})
	return s.update()
}

// dropKick ends k, which may be nil. Its goroutine does not wait for this one:
// Available takes short locks only.
func (s *session) dropKick(k *kicker) {
	if k != nil {
		k.stop()
	}
}

// stop stops q as GET_VRING_BASE wants it: it starts again with a new kick
// descriptor. It returns the next entry of the available ring to take.
func (s *session) stop(q *Queue) uint16 {
	base, was := q.halt(func() { s.cancel(q.index) })
	s.dropKick(q.kick.Swap(nil))
	if was {
		s.log.Debug("virtqueue stopped", "queue", q.index, "base", base)
		s.dev.Stopped(q.index)
	}
	return base
}

// cancel asks the device to be done with what it has taken from a queue.
func (s *session) cancel(i int) {
	if c, ok := s.dev.(Canceler); ok {
		c.Cancel(i)
	}
}

// update starts and stops queues after a message changed what they have.
func (s *session) update() error {
	for _, q := range s.queues {
		q.mu.Lock()
		ready, running, how := q.ready(), q.running, q.how()
		q.mu.Unlock()
		switch {
		case ready && !running:
			s.log.Debug("virtqueue started", "queue", q.index, "size", q.num, "start", how)
			s.dev.Started(q.index, how)
			if err := q.start(); err != nil {
				return err
			}
		case running && !ready:
			q.halt(func() { s.cancel(q.index) })
			s.dev.Stopped(q.index)
		}
	}
	return nil
}

// setState obeys the messages that carry one number.
func (q *Queue) setState(r request, value uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case r == reqSetVringEnable:
		if value > 1 {
			return fmt.Errorf("%w: queue %d enabled by %d", ErrFrontend, q.index, value)
		}
		q.enabled = value == 1
	case q.running:
		return fmt.Errorf("%w: queue %d changed while it runs", ErrFrontend, q.index)
	case r == reqSetVringNum:
		if value == 0 || value > maxQueueSize || value&(value-1) != 0 {
			return fmt.Errorf("%w: queue %d of size %d", ErrFrontend, q.index, value)
		}
		q.num = int(value)
	case r == reqSetVringBase:
		if value > 0xffff {
			return fmt.Errorf("%w: queue %d starts at %d", ErrFrontend, q.index, value)
		}
		q.lastAvail = uint16(value)
	}
	return nil
}

// setAddr sets where the rings are. A running queue cannot be moved.
func (q *Queue) setAddr(a vringAddr) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running && q.addr != a {
		return fmt.Errorf("%w: queue %d moved while it runs", ErrFrontend, q.index)
	}
	q.addr, q.hasAddr = a, true
	return nil
}

// recheck finds the rings of a running queue in memory that changed.
func (q *Queue) recheck() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return nil
	}
	p := q.space.acquire()
	defer q.space.release(p)
	if err := q.look(p); err != nil {
		return fmt.Errorf("queue %d: %w", q.index, err)
	}
	return nil
}
