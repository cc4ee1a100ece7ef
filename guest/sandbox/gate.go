package sandbox

import (
	"context"
	"errors"

	"kata/lib/fmt"
)

var errRemoved = errors.New("the container is being removed")

// gate counts the operations on a container. All of them pass it, the short ones
// too: removal closes it, cancels those that are inside and waits for them, so
// nothing uses what removal releases.
type gate struct {
	operations int           // under the container's mu, as is the rest
	closed     bool          // by removal
	idle       chan struct{} // made when removal waits, closed when nobody is inside
}

// begin starts an operation on the container. The context it returns ends with
// ctx and with the container; end has to be called when the operation is over.
func (c *Container) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate.closed {
		return nil, nil, fmt.Errorf("container %q: %w: %w", c.id, ErrNotFound, errRemoved)
	}
	c.gate.operations++
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(c.alive, func() { cancel(errRemoved) })
	return ctx, func() {
		unhook()
		cancel(context.Canceled)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.gate.operations--; c.gate.operations == 0 && c.gate.idle != nil {
			close(c.gate.idle)
			c.gate.idle = nil
		}
	}, nil
}

// stop refuses new operations and cancels those that run. The channel is closed
// when there is none any more.
func (c *Container) stop() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.closed = true
	c.kill(errRemoved)
	none := make(chan struct{})
	switch {
	case c.gate.operations == 0:
		close(none)
		return none
	case c.gate.idle == nil:
		c.gate.idle = none
	}
	return c.gate.idle
}

// use begins an operation on a container whose creation is over.
func (c *Container) use(ctx context.Context) (context.Context, Instance, func(), error) {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	c.mu.Lock()
	r := c.runtime
	c.mu.Unlock()
	if r == nil {
		end()
		return nil, nil, nil, fmt.Errorf("container %q is being created: %w", c.id, ErrState)
	}
	return ctx, r, end, nil
}

// With calls f with the container as the container runtime has it. That is an
// operation: the container stays until f returns, and ctx ends when its removal
// begins.
func (c *Container) With(ctx context.Context, f func(ctx context.Context, r Instance) error) error {
	ctx, r, end, err := c.use(ctx)
	if err != nil {
		return err
	}
	defer end()
	return f(ctx, r)
}
