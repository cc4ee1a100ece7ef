// Package event publishes what happens to tasks to containerd's event service.
//
// Publish only appends to a queue, so it may be called wherever the order is
// known. One goroutine sends the queue's head until containerd has taken it,
// with growing pauses, through restarts of containerd: events arrive in the
// order of Publish, at least once. The queue is bounded. When it overflows,
// because containerd has been away for long, the oldest event is dropped and
// the loss is logged: what a daemon that comes back needs is how things ended,
// and it asks for the state of every task anyway.
//
// What a guest can cause without end, news of kills for want of memory, pushes
// nothing else out: of one container no more than maxWaitingOOM wait, which say as
// much as many would, and a full queue takes none.
//
// Life cycle: New starts the sender, Close gives it a last bounded chance to
// empty the queue.
package event

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// Capacity is the number of events that wait at most. An event takes less
	// than 1 KiB.
	Capacity = 1024

	// topicOOM is of events that the guest causes, and maxWaitingOOM how many equal
	// ones wait at most.
	topicOOM      = "/tasks/oom"
	maxWaitingOOM = 8

	forwardTimeout = 5 * time.Second
	firstPause     = 100 * time.Millisecond
	longestPause   = 5 * time.Second
)

// Forwarder hands one event to containerd. Client is the real one.
type Forwarder interface {
	Forward(ctx context.Context, event *types.Envelope) error
	Close() error
}

// Publisher is a queue of events on their way to containerd.
type Publisher struct {
	namespace string
	forwarder Forwarder
	log       *slog.Logger
	capacity  int

	arrived chan struct{} // holds a token after Publish
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	queue   []*types.Envelope
	lost    int  // events dropped since the last that was sent
	closing bool // Publish refuses; an empty queue ends the sender
}

// New starts a publisher of events in the containerd namespace. It takes over
// the forwarder.
func New(namespace string, forwarder Forwarder, log *slog.Logger) *Publisher {
	return newPublisher(namespace, forwarder, log, Capacity)
}

func newPublisher(namespace string, forwarder Forwarder, log *slog.Logger, capacity int) *Publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		namespace: namespace, forwarder: forwarder, log: log, capacity: capacity,
		arrived: make(chan struct{}, 1), stop: stop, stopped: make(chan struct{}),
	}
	go func() {
		defer close(p.stopped)
		p.run(ctx)
	}()
	return p
}

// Publish queues the event, a message of containerd's events package, under
// the topic. It never blocks.
func (p *Publisher) Publish(topic string, event proto.Message) {
	value, err := proto.Marshal(event)
	if err != nil {
		p.log.Error("encode event", "topic", topic, "error", err)
		return
	}
	envelope := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.namespace,
		Topic:     topic,
		// containerd's registry knows types by their bare names.
		Event: &anypb.Any{TypeUrl: string(proto.MessageName(event)), Value: value},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		p.log.Warn("event after the end", "topic", topic)
		return
	}
	if topic == topicOOM && p.saysNothingNew(envelope) {
		return
	}
	if len(p.queue) >= p.capacity {
		p.dropOne()
	}
	p.queue = append(p.queue, envelope)
	p.wake()
}

// dropOne makes room for an event in a full queue: an event of topicOOM goes
// first, else the oldest; p.mu is held.
func (p *Publisher) dropOne() {
	for i, waiting := range p.queue {
		if waiting.Topic == topicOOM {
			p.queue = slices.Delete(p.queue, i, i+1)
			return
		}
	}
	if p.lost == 0 {
		p.log.Error("containerd does not take events: dropping the oldest", "waiting", len(p.queue), "topic", p.queue[0].Topic)
	}
	p.lost++
	p.queue = p.queue[1:]
}

// saysNothingNew tells whether an event of topicOOM is to be dropped: the queue is
// full, or enough of the same wait; p.mu is held.
func (p *Publisher) saysNothingNew(e *types.Envelope) bool {
	if len(p.queue) >= p.capacity {
		return true
	}
	same := 0
	for _, waiting := range p.queue {
		if waiting.Topic == topicOOM && bytes.Equal(waiting.Event.Value, e.Event.Value) {
			same++
		}
	}
	return same >= maxWaitingOOM
}

func (p *Publisher) wake() {
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// Close waits until every event is sent, or ctx ends, and stops the sender. It
// returns an error when events were left. It is called once.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	p.wake()
	p.mu.Unlock()
	select {
	case <-p.stopped:
	case <-ctx.Done():
		p.stop()
		<-p.stopped
	}
	p.stop()
	err := p.forwarder.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.queue); n > 0 {
		err = errors.Join(&UnsentError{Events: n}, err)
	}
	return err
}

// run sends the queue until the publisher closes.
func (p *Publisher) run(ctx context.Context) {
	pause := firstPause
	for {
		head, last := p.head()
		if head == nil {
			if last {
				return
			}
			select {
			case <-p.arrived:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := p.forward(ctx, head)
		if err == nil || refused(err) {
			if err != nil {
				p.log.Error("containerd refuses an event", "topic", head.Topic, "error", err)
			}
			p.remove(head)
			pause = firstPause
			continue
		}
		p.log.Debug("publish event", "topic", head.Topic, "error", err, "retry", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// head returns the oldest event, or nil, and then whether none will follow.
func (p *Publisher) head() (event *types.Envelope, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil, p.closing
	}
	return p.queue[0], false
}

// remove takes event off the queue, unless overflow has done so meanwhile.
func (p *Publisher) remove(event *types.Envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == event {
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 {
		p.queue = nil // let go of a long queue's memory
	}
	if p.lost > 0 {
		p.log.Error("events were lost while containerd did not take them", "events", p.lost)
		p.lost = 0
	}
}

func (p *Publisher) forward(ctx context.Context, event *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	return p.forwarder.Forward(ctx, event)
}

// refused tells an event that containerd will never take, which would hold up
// those behind it, from a containerd that cannot take any just now.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.NotFound, codes.AlreadyExists,
		codes.FailedPrecondition, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}
