package sandbox

import (
	"context"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

const (
	// removeTime bounds the answer to a removal and to a creation that failed.
	// What takes longer waits for the kernel: a process in an uninterruptible
	// sleep (state D in ps) cannot be killed.
	removeTime = 10 * time.Second
	// A removal that failed is tried again by itself after retryFirst, then after
	// twice that and so on, at most after retryLast.
	retryFirst = time.Second
	retryLast  = time.Minute
)

// attempt is one attempt to remove a container. It runs until it has succeeded or
// something else than time is against it.
type attempt struct {
	ended chan struct{}
	err   error // set when ended is closed
}

// Remove kills what is left of the container, waits for it to be gone, and
// releases everything the container had. The wait ends with ctx and after ten
// seconds; then, as after a failure, the error says what is left, the removal goes
// on in the background, the ID stays taken, and Remove can be called again to wait
// for the rest. Nothing else can be done to the container any more.
func (c *Container) Remove(ctx context.Context) error {
	a := c.remove(retryFirst)
	timer := time.NewTimer(removeTime)
	defer timer.Stop()
	var err error
	select {
	case <-a.ended:
		if err = a.err; err == nil {
			return nil
		}
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", c.left(), ctx.Err())
	case <-timer.C:
		err = fmt.Errorf("%s; its removal goes on: %w", c.left(), ErrState)
	}
	return fmt.Errorf("remove container %s: %w", c.id, err)
}

// remove returns the attempt that runs, or starts one. If it fails it is repeated
// in the background after pause, unless somebody does so before.
func (c *Container) remove(pause time.Duration) *attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.removal; a != nil {
		select {
		case <-a.ended:
			if a.err == nil {
				return a
			}
		default:
			return a
		}
	}
	return c.start(pause)
}

// retry starts a further attempt if failed is the last one.
func (c *Container) retry(failed *attempt, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removal == failed {
		c.start(pause)
	}
}

// start starts an attempt. It needs mu.
func (c *Container) start(pause time.Duration) *attempt {
	a := &attempt{ended: make(chan struct{})}
	c.removal = a
	c.sandbox.work.Go(func() {
		a.err = c.release(c.sandbox.background)
		close(a.ended)
		if a.err == nil {
			return
		}
		c.sandbox.cfg.Log.Warn("a container is not removed yet", "container", c.id, "error", a.err)
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
			c.retry(a, min(2*pause, retryLast))
		case <-c.sandbox.background.Done():
		}
	})
	return a
}

// release does the work of a removal, each step of which may be repeated.
func (c *Container) release(ctx context.Context) error {
	c.at("calls on it have not ended")
	select {
	case <-c.stop():
	case <-ctx.Done():
		return fmt.Errorf("wait for calls to end: %w", ctx.Err())
	}
	c.mu.Lock()
	r, storages, devices := c.runtime, c.storages, c.devices
	processes := append([]*Process(nil), c.order...)
	c.mu.Unlock()
	c.at("its processes have been killed and have not ended")
	if r != nil {
		// After this nothing can be killed for want of memory any more.
		_ = r.SignalAll(unix.SIGKILL) // what is wrong with it is so for Destroy
		c.watched().Close()
		if err := r.Destroy(ctx); err != nil {
			return err
		}
	}
	for _, p := range processes {
		select {
		case <-p.exited:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to exit: %w", p.String(), ctx.Err())
		}
		p.close()
	}
	c.waits.Wait() // exits have been recorded and streams are closed
	c.at("its storages and devices are not released")
	var err error
	switch {
	case storages == nil:
	case c.lived():
		err = storages.Release()
	default: // nothing of it is for the next container
		err = storages.Unmount()
	}
	if devices != nil {
		err = errors.Join(err, devices.Release())
	}
	c.sandbox.cfg.Storages.LetGo()
	c.sandbox.forget(c)
	return err
}

// lived says that the creation succeeded.
func (c *Container) lived() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.created
}

// at notes what a removal is about to wait for.
func (c *Container) at(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitsFor = what
}

// left says what a removal waits for, and for which processes.
func (c *Container) left() string {
	c.mu.Lock()
	text, r := c.waitsFor, c.runtime
	c.mu.Unlock()
	const most = 8
	if r == nil {
		return text
	}
	pids, err := r.Pids()
	if err != nil || len(pids) == 0 {
		return text
	}
	for _, pid := range pids[:min(len(pids), most)] {
		text += " " + strconv.Itoa(pid)
	}
	if len(pids) > most {
		text += " …"
	}
	return text
}
