package sandbox

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/container"
	"kata/guest/container/oom"
	"kata/guest/container/plan"
	"kata/guest/container/stream"
	"kata/lib/fmt"
)

// ExecOptions are what an exec is made with.
type ExecOptions struct {
	ID      string
	Process *plan.Process
	Ports   stream.Ports
}

// Exit is how a process ended.
type Exit struct {
	// Status is the exit code, or 128 plus the number of the fatal signal.
	Status int
	Time   time.Time
	// Stdout and Stderr are the bytes that had been written to each stream by
	// then.
	Stdout, Stderr uint64
	// OOMEvents is how many OOM events of the container there were by then.
	OOMEvents uint64
}

// Process is a container's first process or an exec.
type Process struct {
	container *Container
	execID    string
	// running is nil when the process has exited and its streams have ended: of
	// what stays known only the exit is kept.
	running atomic.Pointer[running]

	exited chan struct{} // closed when exit is set
	exit   Exit

	waited  atomic.Bool // somebody has got the exit
	drained atomic.Bool // nothing is copied any more
}

// running is what a process needs until its end.
type running struct {
	process Task // set by run, before anybody can see the Process
	streams *stream.Set
}

// String names the process in errors.
func (p *Process) String() string {
	if p.execID == "" {
		return fmt.Sprintf("the first process of container %q", p.container.id)
	}
	return fmt.Sprintf("process %q of container %q", p.execID, p.container.id)
}

// openStreams returns a process that has its streams and nothing else yet.
func (c *Container) openStreams(ctx context.Context, execID string, ports stream.Ports, terminal bool) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	cfg := &c.sandbox.cfg
	streams, err := cfg.Streams.Open(ctx, stream.Config{
		Ports: ports, Terminal: terminal, PipeSize: cfg.PipeSize, Buffers: cfg.Buffers,
	})
	if err != nil {
		return nil, err
	}
	p := &Process{container: c, execID: execID, exited: make(chan struct{})}
	p.running.Store(&running{streams: streams})
	return p, nil
}

// child returns the process's ends of its streams.
func (p *Process) child() container.Stdio {
	child := p.Streams().Child()
	return container.Stdio{Stdin: child.Stdin, Stdout: child.Stdout, Stderr: child.Stderr}
}

// run connects the streams of a process that has been made, and awaits its exit
// in the background. After an error its streams are still to be closed.
func (p *Process) run(process Task) error {
	r := p.running.Load()
	r.process = process
	r.streams.CloseChild()
	if console := process.Console(); console != nil {
		if err := r.streams.SetConsole(console); err != nil {
			return fmt.Errorf("use the terminal of %s: %w", p.String(), err)
		}
	}
	r.streams.Start()
	p.container.waits.Go(func() { p.await(r) })
	return nil
}

// await records the exit as soon as it is known and what the kernel has killed
// for want of memory has been told. Streams that are connections
// are released when nothing holds their other ends any more; what calls have to
// read stays.
func (p *Process) await(r *running) {
	<-r.process.Done()
	exit := r.process.Exit()
	p.exit = Exit{Status: exit.Status, Time: exit.Time}
	p.exit.Stdout, p.exit.Stderr = r.streams.Written()
	p.exit.OOMEvents = p.container.watched().Exited()
	close(p.exited)
	if r.streams.Connected() {
		r.streams.Wait()
		p.close()
		p.running.Store(nil)
	}
	p.drained.Store(true)
	p.container.forgetEnded(p)
}

// close releases the streams of a process that has exited, or that nobody knows.
// It may be called again.
func (p *Process) close() {
	r := p.running.Load()
	if r == nil {
		return
	}
	r.streams.Close()
	if r.process == nil {
		return
	}
	if console := r.process.Console(); console != nil {
		_ = console.Close()
	}
}

// watched is what counts the container's OOM kills.
func (c *Container) watched() *oom.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.oom
}

// forgettable reports whether the process has exited, with all its output gone
// and, if waited, somebody having got the exit.
func (p *Process) forgettable(waited bool) bool {
	return p.drained.Load() && (p.waited.Load() || !waited)
}

// Exec adds a process to a running container. If anything fails nothing of it
// is left.
func (c *Container) Exec(ctx context.Context, o ExecOptions) error {
	ctx, r, end, err := c.use(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := c.reserve(o.ID); err != nil {
		return err
	}
	p, err := c.exec(ctx, r, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.processes, o.ID)
		return err
	}
	c.processes[o.ID] = p
	c.order = append(c.order, p)
	return nil
}

func (c *Container) exec(ctx context.Context, r Instance, o ExecOptions) (*Process, error) {
	p, err := c.openStreams(ctx, o.ID, o.Ports, o.Process.Terminal)
	if err != nil {
		return nil, fmt.Errorf("process %q of container %q: %w", o.ID, c.id, err)
	}
	process, err := r.Exec(ctx, o.ID, o.Process, p.child())
	if err != nil {
		p.close()
		return nil, err
	}
	if err := p.run(process); err != nil {
		// It runs without anybody who could see it: that is no use.
		err = errors.Join(err, process.Signal(unix.SIGKILL))
		p.close()
		return nil, err
	}
	return p, nil
}

// reserve keeps a place for an exec called id.
func (c *Container) reserve(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.processes[id]; ok {
		if p == nil || p == c.init || !p.forgettable(true) {
			return fmt.Errorf("process %q of container %q: %w", id, c.id, ErrExists)
		}
		c.drop(p)
	}
	c.prune(keepExited, true)
	if len(c.processes) >= MaxProcesses {
		c.prune(MaxProcesses/2, false)
	}
	if len(c.processes) >= MaxProcesses {
		return fmt.Errorf("process %q of container %q: %w: %d processes", id, c.id, ErrLimit, MaxProcesses)
	}
	c.processes[id] = nil
	return nil
}

// prune forgets the oldest processes that can be until no more than keep of
// them are left: those whose exit has been asked for, or all. It needs mu.
func (c *Container) prune(keep int, waited bool) {
	var old []*Process
	for _, p := range c.order {
		if p != c.init && p.forgettable(waited) {
			old = append(old, p)
		}
	}
	for _, p := range old[:max(0, len(old)-keep)] {
		c.drop(p)
	}
}

// drop forgets an exec. It needs mu.
func (c *Container) drop(p *Process) {
	// Nothing is copied any more, so this does not block.
	p.close()
	delete(c.processes, p.execID)
	c.order = slices.DeleteFunc(c.order, func(o *Process) bool { return o == p })
}

// Process returns the process called execID, or the first one if that is empty.
func (c *Container) Process(execID string) (*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.processes[execID]
	switch {
	case ok && p != nil:
		return p, nil
	case ok || c.runtime == nil:
		return nil, fmt.Errorf("process %q of container %q is being created: %w", execID, c.id, ErrState)
	}
	if p := c.remember(execID); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q of container %q: %w", execID, c.id, ErrNotFound)
}

// Wait waits until ctx ends for the exit of the process. Any number of callers
// may wait, also when it has exited. It is no operation on the container: an exit
// is told to those who wait for it while the container is being removed, too.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.exited:
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for %s: %w", p.String(), ctx.Err())
	}
	if !p.waited.Swap(true) {
		p.container.forgetEnded(p)
	}
	return p.exit, nil
}

// Streams returns the process's standard streams; one that has ended has none, and
// removal closes them: who reads or writes one sees its end.
func (p *Process) Streams() *stream.Set {
	if r := p.running.Load(); r != nil {
		return r.streams
	}
	return new(stream.Set)
}

// Signal sends a signal to this process alone.
func (p *Process) Signal(ctx context.Context, signal unix.Signal) error {
	_, end, err := p.container.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	r := p.running.Load()
	if r == nil {
		return fmt.Errorf("%s has exited: %w", p.String(), ErrNotFound)
	}
	err = r.process.Signal(signal)
	if errors.Is(err, container.ErrNotRunning) {
		return fmt.Errorf("%s has exited: %w", p.String(), ErrNotFound)
	}
	return err
}

// Resize sets the size of the process's terminal in characters.
func (p *Process) Resize(ctx context.Context, rows, columns uint32) error {
	_, end, err := p.container.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	r := p.running.Load()
	if r == nil {
		return fmt.Errorf("%s has exited: %w", p.String(), ErrNotFound)
	}
	if r.process.Console() == nil {
		return fmt.Errorf("%s has no terminal: %w", p.String(), ErrState)
	}
	return r.process.Resize(columns, rows)
}
