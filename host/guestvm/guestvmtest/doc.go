// Package guestvmtest has fakes of the parts of a guest (machine, link, files,
// file server, agent), so that what boots one and runs containers in it is tested
// without a VMM, and the suites that the fakes and the real parts pass alike.
//
// The fakes keep their contracts and nothing else: a fake machine runs a fake agent
// in this process, over a link of socket pairs; processes are goroutines. Each step
// can be made to fail or to wait ([Faults]).
package guestvmtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Faults makes steps of fakes fail. It also lists the steps that were tried, so
// that a test can make each of them fail in turn.
type Faults struct {
	mu    sync.Mutex
	plans map[string]plan
	tried []string
}

type plan struct {
	err   error
	times int
	hold  <-chan struct{}
}

// Fail makes a step fail with err the next times it is tried, for ever when times
// is negative.
func (f *Faults) Fail(step string, times int, err error) {
	f.plan(step, plan{err: err, times: times})
}

// Hold makes a step wait until the channel is closed, or until its caller's
// patience is at an end, which is then its error.
func (f *Faults) Hold(step string, until <-chan struct{}) { f.plan(step, plan{hold: until}) }

func (f *Faults) plan(step string, p plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plans == nil {
		f.plans = make(map[string]plan)
	}
	f.plans[step] = p
}

// Clear forgets all plans.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans = nil
}

// Tried returns the steps that were tried so far, each once, in order.
func (f *Faults) Tried() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tried)
}

// at is called by each step.
func (f *Faults) at(ctx context.Context, step string) error {
	f.mu.Lock()
	if !slices.Contains(f.tried, step) {
		f.tried = append(f.tried, step)
	}
	p := f.plans[step]
	if p.times > 0 {
		p.times--
		f.plans[step] = p
		if p.times == 0 {
			delete(f.plans, step)
		}
	}
	f.mu.Unlock()
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", step, p.err)
	}
	return nil
}
