package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"kata/host/shim/stats"
)

const (
	// drainTimeout is how long a deletion waits for a reader of the output that
	// does not read, as runc's shim does.
	drainTimeout = 10 * time.Second
	// flushTimeout is how long the news of an exit waits for such a reader.
	flushTimeout = 5 * time.Second
	// slowReader is how long both wait after the last progress of a reader that has
	// read since, and progressInterval how often they look.
	slowReader       = 30 * time.Second
	progressInterval = 250 * time.Millisecond
	// stopTimeout bounds the end of the sandbox.
	stopTimeout = 20 * time.Second
	// killTimeout bounds the wait for a process after SIGKILL.
	killTimeout = 10 * time.Second
	// lastExecs bounds how long the exit of a container waits for the exits of
	// its execs, which die with it, so that its own is told last.
	lastExecs = 2 * time.Second
)

// Config is what a Service works with.
type Config struct {
	Namespace string
	// PID is the shim's own.
	PID uint32
	// ConfigPath is the configuration named at the start of the shim, if any.
	ConfigPath string
	Boot       func(ctx context.Context, r BootRequest) (Sandbox, error)
	Publish    Publish
	Layout     stats.Layout
	Log        *slog.Logger
}

// Service is the task service of one pod. Its methods are those of
// containerd.task.v3, and return containerd's errors (errdefs); Register
// serves them.
type Service struct {
	cfg Config

	// pod is held while the sandbox boots or stops.
	pod lock
	// watching counts the goroutines that wait for exits.
	watching sync.WaitGroup
	changed  chan struct{} // holds a token after a task came or went
	done     chan struct{}

	mu      sync.Mutex
	sandbox Sandbox // nil while there is none
	tasks   map[string]*task
	closing bool // no task is accepted any more
}

// task is a container, or the attempt to create one.
type task struct {
	id     string
	bundle string
	first  *process // known from the start, usable once ready
	abort  context.CancelCauseFunc
	// creationDone is closed when the creation has succeeded, or has failed and
	// left nothing.
	creationDone chan struct{}

	// The rest is set when ready becomes true. Service.mu guards it.
	ready      bool
	container  Container
	sharesPIDs bool
	execs      map[string]*process
}

// New returns a service without tasks.
func New(cfg Config) *Service {
	return &Service{
		cfg: cfg, pod: newLock(), changed: make(chan struct{}, 1), done: make(chan struct{}),
		tasks: make(map[string]*task),
	}
}

// Done is closed when nothing is left to serve and containerd has asked for the
// end.
func (s *Service) Done() <-chan struct{} { return s.done }

// Changed receives after the first task came or the last one went.
func (s *Service) Changed() <-chan struct{} { return s.changed }

// Empty tells whether there is no task, nor one being created.
func (s *Service) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tasks) == 0
}

// Close ends what is left: creations are aborted, the sandbox is stopped, every
// process is reported as ended. ctx bounds it.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	creating := s.creating()
	s.mu.Unlock()
	for _, t := range creating {
		t.abort(errShutdown)
	}
	for _, t := range creating {
		select {
		case <-t.creationDone:
		case <-ctx.Done():
			return fmt.Errorf("abort the creation of container %s: %w", t.id, context.Cause(ctx))
		}
	}
	if err := s.stopSandbox(ctx, false); err != nil {
		return err
	}
	exits := make(chan struct{})
	go func() { defer close(exits); s.watching.Wait() }()
	select {
	case <-exits:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the exits of processes: %w", context.Cause(ctx))
	}
}

// creating returns the tasks that are being created; s.mu is held.
func (s *Service) creating() []*task {
	return slices.DeleteFunc(slices.Collect(maps.Values(s.tasks)), func(t *task) bool { return t.ready })
}

// find returns a container that is there; one that is being created is not.
func (s *Service) find(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id]
	switch {
	case !ok:
		return nil, notFound(id)
	case !t.ready:
		return nil, fmt.Errorf("container %s is still being created: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

func notFound(id string) error { return fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound) }

// process returns the first process, or an exec, of a container that is there.
func (s *Service) process(id, execID string) (*task, *process, error) {
	t, err := s.find(id)
	if err != nil || execID == "" {
		if t == nil {
			return nil, nil, err
		}
		return t, t.first, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := t.execs[execID]
	if !ok {
		return nil, nil, fmt.Errorf("exec %s in container %s: %w", execID, id, errdefs.ErrNotFound)
	}
	return t, p, nil
}

// drop forgets a task.
func (s *Service) drop(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.id)
	s.noteChange()
}

// noteChange tells Changed; s.mu is held.
func (s *Service) noteChange() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// stopSandbox stops the sandbox if there is one and, when ifEmpty is set, no
// task needs it.
func (s *Service) stopSandbox(ctx context.Context, ifEmpty bool) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := s.pod.acquire(ctx); err != nil {
		return fmt.Errorf("stop the sandbox: %w", err)
	}
	defer s.pod.release()
	s.mu.Lock()
	sandbox := s.sandbox
	if ifEmpty && len(s.tasks) > 0 {
		sandbox = nil
	}
	s.mu.Unlock()
	if sandbox == nil {
		return nil
	}
	return s.release(ctx, sandbox)
}

// release stops a sandbox and forgets it; one that could not be released is kept,
// to be stopped again. s.pod is held.
func (s *Service) release(ctx context.Context, sandbox Sandbox) error {
	if err := sandbox.Stop(ctx); err != nil {
		return fmt.Errorf("stop the sandbox: %w", err)
	}
	s.mu.Lock()
	s.sandbox = nil
	s.mu.Unlock()
	return nil
}

// releaseDead releases a sandbox that died by itself, as soon as it has.
func (s *Service) releaseDead(sandbox Sandbox) {
	<-sandbox.Done()
	if sandbox.Err() == nil {
		return // it was stopped
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.pod.acquire(ctx); err != nil {
		return // whoever stops it is at it for long enough
	}
	defer s.pod.release()
	if err := sandbox.Stop(ctx); err != nil {
		s.cfg.Log.Error("release the sandbox that died", "error", err)
	}
}

var (
	errShutdown = errors.New("the shim is shutting down")
	errDeleted  = errors.New("it was deleted while being created")
	errKilled   = errors.New("it was killed while being created")
)
