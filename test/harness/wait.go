package harness

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"
)

// Await looks again after pollFirst, then after ever longer pauses up to
// pollMost. The things it looks at (processes, mounts, containerd's answers)
// announce nothing.
const (
	pollFirst = 2 * time.Millisecond
	pollMost  = 50 * time.Millisecond
)

// Await looks until done reports true or fails, or ctx ends; what names the
// awaited thing for the error.
func Await(ctx context.Context, what string, done func() (bool, error)) error {
	pause := pollFirst
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-timer.C:
		}
		pause = min(2*pause, pollMost)
		timer.Reset(pause)
	}
}

// Output collects what a process writes and lets others wait for its content.
// It is an io.Writer for exec.Cmd, safe for concurrent use.
type Output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at each write
	ended   bool
}

// Write appends p and wakes those who wait.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.buf.Write(p)
}

// end tells those who wait that nothing more comes.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wake()
}

// wake needs o.mu.
func (o *Output) wake() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// String returns everything written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Await returns once the output fulfils done, or with an error when its writer
// or ctx ends.
func (o *Output) Await(ctx context.Context, what string, done func(string) bool) error {
	for {
		o.mu.Lock()
		text, ended := o.buf.String(), o.ended
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		if done(text) {
			return nil
		}
		if ended {
			return fmt.Errorf("wait for %s in the output: it ended with %q", what, text)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s in the output: %w; so far %q", what, context.Cause(ctx), text)
		}
	}
}
