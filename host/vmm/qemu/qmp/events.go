package qmp

// Subscription receives the events that arrive after it was made.
type Subscription struct {
	client  *Client
	events  chan Event
	dropped int // guarded by client.mu
}

// Subscribe returns a subscription that holds up to buffer events that were
// not received yet (at least 1). A subscriber that falls further behind loses
// the newest; it never holds up others.
func (c *Client) Subscribe(buffer int) *Subscription {
	s := &Subscription{client: c, events: make(chan Event, max(buffer, 1))}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs == nil {
		close(s.events)
		return s
	}
	c.subs[s] = struct{}{}
	return s
}

// Events delivers events in QEMU's order. It is closed when the connection
// ends or the subscription is closed.
func (s *Subscription) Events() <-chan Event { return s.events }

// Dropped returns how many events were lost because the buffer was full.
func (s *Subscription) Dropped() int {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.dropped
}

// Close ends the subscription. It is idempotent.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if _, ok := s.client.subs[s]; ok {
		delete(s.client.subs, s)
		close(s.events)
	}
}

func (c *Client) publish(event Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		select {
		case s.events <- event:
		default:
			s.dropped++
		}
	}
}

// closeSubscriptions runs once, when nothing more can be published.
func (c *Client) closeSubscriptions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		close(s.events)
	}
	c.subs = nil
}
