// Package tasktest has the fake of a sandbox for tests of package task and of the
// shim, and the suite that it and the real sandbox pass alike ([Run]).
//
// The fake boots nothing. Its processes do what their first argument says once
// they are started: "exit N" ends with N, anything else goes on until it is killed,
// or until the test ends it.
package tasktest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/host/shim/task"
	"kata/host/stdio"
)

const (
	// killed is 128 + SIGKILL.
	killed = 137
	// FirstPID is the pid on the host of a container's first process; its execs
	// have the pids after ExecPID, in their order.
	FirstPID = 5001
	ExecPID  = 6000
)

// Behaviour is how fakes behave, and who is told what is asked of them. It may be
// changed while nothing is going on.
type Behaviour struct {
	// Note is told of each call that changes something; nil for nobody.
	Note func(format string, args ...any)

	CreateErr, StartErr, PauseErr, KillErr error
	// Processes is how many processes a container says it has.
	Processes    int
	ProcessesErr error
	// StopErr is what Stop returns after it has ended the processes.
	StopErr error
	// OnStart is called in the middle of a start.
	OnStart func()
	// Instant has processes end with 0 before their start is answered.
	Instant bool
	// Stuck output is never drained. Drained, when set, is closed when it is.
	Stuck   bool
	Drained chan struct{}
	// Now is the time of exits; nil for the clock's.
	Now func() time.Time
	// Copied is how many bytes of output were read.
	Copied atomic.Uint64
}

func (b *Behaviour) note(format string, args ...any) {
	if b.Note != nil {
		b.Note(format, args...)
	}
}

// Sandbox implements task.Sandbox.
type Sandbox struct {
	b    *Behaviour
	done chan struct{}

	mu         sync.Mutex
	over       bool
	err        error
	containers map[string]*Container
}

// New returns a sandbox that runs.
func New(b *Behaviour) *Sandbox {
	return &Sandbox{b: b, done: make(chan struct{}), containers: make(map[string]*Container)}
}

// CreateContainer implements task.Sandbox.
func (s *Sandbox) CreateContainer(ctx context.Context, r task.ContainerRequest) (task.Container, error) {
	s.b.note("create %s", r.ID)
	if s.b.CreateErr != nil {
		return nil, s.b.CreateErr
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return nil, errors.New("the sandbox has ended")
	case s.containers[r.ID] != nil:
		return nil, fmt.Errorf("container %s exists", r.ID)
	}
	c := &Container{b: s.b, sandbox: s, id: r.ID, Request: r, execs: make(map[string]*Process)}
	c.init = newProcess(s.b, r.ID, r.Spec.Process)
	c.init.pid = FirstPID
	s.containers[r.ID] = c
	return c, nil
}

// Done implements task.Sandbox.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Err implements task.Sandbox.
func (s *Sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Die is the end of the virtual machine.
func (s *Sandbox) Die(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over, s.err = true, reason
	close(s.done)
	for _, c := range s.containers {
		c.end()
	}
}

// Stop implements task.Sandbox.
func (s *Sandbox) Stop(context.Context) error {
	s.b.note("stop sandbox")
	s.Die(nil)
	return s.b.StopErr
}

// Container returns a container, nil if it is not there.
func (s *Sandbox) Container(id string) *Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// Container implements task.Container.
type Container struct {
	b       *Behaviour
	sandbox *Sandbox
	id      string
	init    *Process
	// Request is what it was created with.
	Request task.ContainerRequest

	mu    sync.Mutex
	execs map[string]*Process
}

// end kills all processes.
func (c *Container) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.execs {
		p.End(killed)
	}
	c.init.End(killed)
}

// Init implements task.Container.
func (c *Container) Init() task.Process { return c.init }

// Process returns the first process, or an exec.
func (c *Container) Process(execID string) *Process {
	if execID == "" {
		return c.init
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.execs[execID]
}

// Exec implements task.Container.
func (c *Container) Exec(_ context.Context, id string, spec *specs.Process, _ stdio.Config) (task.Process, error) {
	p := newProcess(c.b, id, spec)
	p.forget = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.execs, id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[id] != nil {
		return nil, fmt.Errorf("exec %s exists", id)
	}
	c.execs[id] = p
	p.pid = ExecPID + len(c.execs)
	return p, nil
}

// Kill implements task.Container.
func (c *Container) Kill(_ context.Context, sig uint32) error {
	c.b.note("kill all of %s with %d", c.id, sig)
	if c.b.KillErr != nil {
		return c.b.KillErr
	}
	if unix.Signal(sig) == unix.SIGKILL {
		c.init.End(killed)
	}
	return nil
}

// Pause implements task.Container.
func (c *Container) Pause(context.Context) error {
	c.b.note("pause %s", c.id)
	return c.b.PauseErr
}

// Resume implements task.Container.
func (c *Container) Resume(context.Context) error {
	c.b.note("resume %s", c.id)
	return nil
}

// Processes implements task.Container.
func (c *Container) Processes(context.Context) (int, error) { return c.b.Processes, c.b.ProcessesErr }

// Stats implements task.Container.
func (c *Container) Stats(context.Context) (*agentpb.StatsContainerResponse, error) {
	return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{PidsStats: &agentpb.PidsStats{Current: 3}}}, nil
}

// Update implements task.Container.
func (c *Container) Update(_ context.Context, r *specs.LinuxResources) error {
	if r.Pids != nil && r.Pids.Limit != nil {
		c.b.note("update %s to %d pids", c.id, *r.Pids.Limit)
	}
	return nil
}

// Delete implements task.Container.
func (c *Container) Delete(context.Context) error {
	c.b.note("delete %s", c.id)
	c.end()
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	if c.sandbox.containers[c.id] == c {
		delete(c.sandbox.containers, c.id)
	}
	return nil
}

// Process implements task.Process.
type Process struct {
	b      *Behaviour
	id     string
	pid    int
	args   []string
	forget func() // takes an exec out of its container
	once   sync.Once
	done   chan struct{}
	exit   task.Exit
}

func newProcess(b *Behaviour, id string, spec *specs.Process) *Process {
	p := &Process{b: b, id: id, forget: func() {}, done: make(chan struct{})}
	if spec != nil {
		p.args = spec.Args
	}
	return p
}

// End ends the process, unless it has ended.
func (p *Process) End(status uint32) {
	p.once.Do(func() {
		now := time.Now
		if p.b.Now != nil {
			now = p.b.Now
		}
		p.exit = task.Exit{Status: status, At: now()}
		close(p.done)
	})
}

// PID implements task.Process.
func (p *Process) PID() int { return p.pid }

// Start implements task.Process.
func (p *Process) Start(ctx context.Context) error {
	p.b.note("start %s", p.id)
	if p.b.OnStart != nil {
		p.b.OnStart()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.b.StartErr != nil {
		return p.b.StartErr
	}
	if len(p.args) == 2 && p.args[0] == "exit" {
		n, err := strconv.ParseUint(p.args[1], 10, 8)
		if err != nil {
			return err
		}
		p.End(uint32(n))
	}
	if p.b.Instant {
		p.End(0)
	}
	return nil
}

// Signal implements task.Process.
func (p *Process) Signal(_ context.Context, sig uint32) error {
	p.b.note("signal %s with %d", p.id, sig)
	select {
	case <-p.done:
		return errors.New("no such process")
	default:
	}
	if unix.Signal(sig) == unix.SIGKILL {
		p.End(killed)
	}
	return nil
}

// Resize implements task.Process.
func (p *Process) Resize(_ context.Context, width, height uint32) error {
	p.b.note("resize %s to %dx%d", p.id, width, height)
	return nil
}

// CloseStdin implements task.Process.
func (p *Process) CloseStdin(context.Context) error {
	p.b.note("close stdin of %s", p.id)
	return nil
}

// Done implements task.Process.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit implements task.Process.
func (p *Process) Exit() task.Exit { return p.exit }

// Drained implements task.Process.
func (p *Process) Drained() <-chan struct{} {
	switch {
	case p.b.Stuck:
		return nil
	case p.b.Drained != nil:
		return p.b.Drained
	}
	return p.done
}

// Copied implements task.Process.
func (p *Process) Copied() uint64 { return p.b.Copied.Load() }

// Delete implements task.Process.
func (p *Process) Delete(context.Context) error {
	p.b.note("forget %s", p.id)
	p.forget()
	return nil
}
