// Package undo is the list of what has been acquired and how to give it back.
// Whoever acquires something pushes the step that releases it; failure, deletion
// and shutdown all run the same list, last acquired first.
//
// A step is either live, a function of this process (end a goroutine, hang up, ask
// a VMM to quit), or an entry of the sandbox's journal (package journal), which is
// written before the thing is acquired and whose release works from disk alone.
// The live steps make an orderly end; the entries see to it that it is one, and
// are all that is left to run when the process was killed.
//
// A step whose release failed stays in the list, with those that must not be
// released over its failure, and is tried again by the next run.
package undo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kata/host/journal"
)

// Mode says what a step's release has to regard.
type Mode int

const (
	// Plain steps are released whatever became of others.
	Plain Mode = iota
	// UsedByGuest steps are kept as long as a later EndsGuest step is not
	// released: the guest may still use what they would take away.
	UsedByGuest
	// EndsGuest steps end the guest's use of the UsedByGuest steps before them.
	EndsGuest
	// Last steps are kept as long as any later step is not released.
	Last
)

// Journal writes entries down. *journal.Journal is one.
type Journal interface {
	Add(journal.Entry, journal.Mark) (journal.Seq, error)
	Amend(journal.Seq, journal.Entry) error
	Release(context.Context, journal.Seq) error
}

// Stack is a list of steps. Its methods may be called concurrently.
type Stack struct {
	journal Journal

	running chan struct{} // made by New; a token while Run is at it
	mu      sync.Mutex
	steps   []*step
}

type step struct {
	what    string
	mode    Mode
	release func(context.Context) error
}

// New returns an empty stack whose entries go to the journal; [Memory] is one for
// what dies with its process.
func New(j Journal) *Stack { return &Stack{journal: j, running: make(chan struct{}, 1)} }

// Push adds the release of what, a noun; it is called until it returns nil, with
// the context of Run, which may have ended.
func (s *Stack) Push(what string, mode Mode, release func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, &step{what, mode, release})
}

// Held is an entry on the stack.
type Held struct {
	journal Journal
	seq     journal.Seq
}

// Hold writes an entry into the journal and pushes its release. The resource may
// be acquired once Hold has returned without an error.
func (s *Stack) Hold(e journal.Entry, mode Mode) (Held, error) {
	mark := journal.Plain
	if mode == UsedByGuest {
		mark = journal.UsedByGuest
	}
	seq, err := s.journal.Add(e, mark)
	if err != nil {
		return Held{}, err
	}
	s.Push(e.String(), mode, func(ctx context.Context) error {
		ctx, cancel := Grace(ctx)
		defer cancel()
		return s.journal.Release(ctx, seq)
	})
	return Held{s.journal, seq}, nil
}

// Amend says more of what is held, as the identity of a process.
func (h Held) Amend(e journal.Entry) error { return h.journal.Amend(h.seq, e) }

// grace is how long a step may take that nobody waits for any more.
const grace = 5 * time.Second

// Grace gives a release that is quick, but not to be left out, a bounded time of
// its own when ctx has ended.
func Grace(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), grace)
}

// Run releases what it can, last acquired first, and returns what it could not,
// joined. It goes on after a failure. What was released is not released again,
// however often and from wherever Run is called; calls wait for each other.
func (s *Stack) Run(ctx context.Context) error {
	select {
	case s.running <- struct{}{}:
	default:
		select {
		case s.running <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("wait for a release that is under way: %w", context.Cause(ctx))
		}
	}
	defer func() { <-s.running }()
	var errs []error
	guest := false // may still run
	for _, step := range s.newestFirst() {
		switch {
		case step.mode == Last && len(errs) > 0, step.mode == UsedByGuest && guest:
			errs = append(errs, &KeptError{step.what, step.mode})
			continue
		}
		if err := step.release(ctx); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", step.what, err))
			guest = guest || step.mode == EndsGuest
			continue
		}
		s.drop(step)
	}
	return errors.Join(errs...)
}

// KeptError says that something was not released because of another failure.
type KeptError struct {
	What string
	mode Mode
}

func (e *KeptError) Error() string {
	if e.mode == UsedByGuest {
		return e.What + " is kept: " + journal.ErrGuestRuns.Error()
	}
	return e.What + " is kept: something in it is held"
}

func (s *Stack) newestFirst() []*step {
	s.mu.Lock()
	defer s.mu.Unlock()
	steps := slices.Clone(s.steps)
	slices.Reverse(steps)
	return steps
}

func (s *Stack) drop(done *step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = slices.DeleteFunc(s.steps, func(o *step) bool { return o == done })
}

// Empty tells whether nothing is held.
func (s *Stack) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.steps) == 0
}
