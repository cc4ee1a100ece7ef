package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// undo is a stack of releases: whoever acquires a resource pushes the step
// that gives it back, and failure, deletion and shutdown all run the same
// stack, last acquired first.
type undo struct {
	mu    sync.Mutex
	steps []undoStep
}

type undoStep struct {
	what    string
	release func(context.Context) error
}

// push adds the release of what; what completes the sentence "release …".
func (u *undo) push(what string, release func(context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, undoStep{what, release})
}

// run releases everything, in reverse order, each step exactly once however
// often and from wherever run is called, and returns what went wrong, joined.
func (u *undo) run(ctx context.Context) error {
	var errs []error
	for {
		step, ok := u.pop()
		if !ok {
			return errors.Join(errs...)
		}
		if err := step.release(ctx); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", step.what, err))
		}
	}
}

func (u *undo) pop() (undoStep, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.steps)
	if n == 0 {
		return undoStep{}, false
	}
	step := u.steps[n-1]
	u.steps = u.steps[:n-1]
	return step, true
}
