package container

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/container/cgroup"
	"kata/guest/container/nsexec"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/lib/fmt"
)

// Status is where a container is in its life.
type Status int

// A container is Created by Create, Running from Start on, Stopped when its
// init has ended. Paused is a Running one.
const (
	Created Status = iota
	Running
	Paused
	Stopped
)

func (s Status) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Paused:
		return "paused"
	case Stopped:
		return "stopped"
	}
	return "unknown"
}

// Container is a container that has been created.
type Container struct {
	id    string
	rt    *Runtime
	spec  *ocispec.Container
	group *cgroup.Group
	init  *Process // nil only while Create works
	// What the container has of its own, or of another one's; set by Create.
	ownUsers, ownTime bool
	users             plan.Users // with ownUsers
	// leftovers is who kills what the init leaves behind in a pid namespace that
	// is not the container's; Destroy waits for it.
	leftovers sync.WaitGroup

	// mu is not held while anything blocks.
	mu      sync.Mutex
	started bool
	paused  bool
	stopped bool // the poststop hooks have been run, or are being run
}

// ID is the container's ID.
func (c *Container) ID() string { return c.id }

// Init is the container's first process, from Create on.
func (c *Container) Init() *Process { return c.init }

// Spec is the spec that the container was created with; it is not to be
// changed.
func (c *Container) Spec() *ocispec.Container { return c.spec }

// Status tells where the container is in its life.
func (c *Container) Status() Status {
	select {
	case <-c.init.Done():
		return Stopped
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.started:
		return Created
	case c.paused:
		return Paused
	default:
		return Running
	}
}

// Start executes the container's command. When the error is a *StageError the
// command could not be executed and the container has ended.
func (c *Container) Start(ctx context.Context) error {
	if c.Status() == Stopped {
		return fmt.Errorf("container %s: %w", c.id, ErrNotRunning)
	}
	c.mu.Lock()
	again := c.started
	c.started = true
	c.mu.Unlock()
	if again {
		return fmt.Errorf("container %s was started before", c.id)
	}
	// If it cannot leave it starts from where it is.
	_ = c.rt.adopt(c.init)
	err := c.launch(ctx, c.init)
	if err != nil {
		c.init.abandon()
		select {
		case <-c.init.Done():
		case <-ctx.Done():
		}
		return err
	}
	c.startHooks(ctx)
	return nil
}

// Exec runs a process in the container, with the container's namespaces,
// cgroup and seccomp filter; everything else is as p says, which belongs to it
// afterwards. The execID is
// for the caller's own use and for errors.
//
// The error is ErrNotRunning or ErrPaused (wrapped), a *fault.Error, a
// *StageError, or of a system call. If ctx ends first the process is killed.
func (c *Container) Exec(ctx context.Context, execID string, p *plan.Process, stdio Stdio) (*Process, error) {
	switch status := c.Status(); status {
	case Running:
	case Paused:
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.id, ErrPaused)
	default:
		return nil, fmt.Errorf("exec %s in container %s, which is %s: %w", execID, c.id, status.String(), ErrNotRunning)
	}
	c.rt.warnProcess(c.id, p)
	if c.ownUsers {
		if err := c.users.Check(&p.User); err != nil {
			return nil, err
		}
	}
	init, err := c.init.process.PIDFD()
	if err != nil {
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.id, ErrNotRunning)
	}
	defer unix.Close(init)
	// The stage is born in the agent's cgroup, and launch moves it. In the
	// container's it could be stopped or slowed down in the middle of vfork, and
	// the agent with it; what it needs would count against the limits.
	process, err := c.rt.startStage(stageStart{
		args:   []string{"kata-agent", plan.Argument, plan.Exec, c.id},
		stdio:  stdio,
		pidns:  init,
		init:   init,
		nsexec: c.specialExec(init),
	})
	if err != nil {
		return nil, c.orNotRunning(execID, err)
	}
	process.affinity = p.Final
	err = c.prepareExec(ctx, process, p, stdio)
	if err == nil {
		err = c.launch(ctx, process)
	}
	if err != nil {
		process.abandon()
		return nil, c.orNotRunning(execID, err)
	}
	return process, nil
}

// specialExec returns how to start the stage of an exec in the container's user
// and time namespaces, nil if it has none.
func (c *Container) specialExec(init int) *nsexec.Program {
	flags := 0
	if c.ownUsers {
		flags |= unix.CLONE_NEWUSER
	}
	if c.ownTime {
		flags |= unix.CLONE_NEWTIME
	}
	if flags == 0 {
		return nil
	}
	return &nsexec.Program{
		Enter: []nsexec.Namespaces{{FD: init, Flags: plan.OtherNamespaces}},
		Join:  []nsexec.Namespaces{{FD: init, Flags: flags}},
	}
}

// prepareExec gives the stage of an exec its plan, and waits until it is ready.
func (c *Container) prepareExec(ctx context.Context, process *Process, p *plan.Process, stdio Stdio) error {
	if p.Initial != nil {
		if err := c.setAffinity(process, p.Initial); err != nil {
			return err
		}
	}
	if c.ownUsers {
		if err := own(&c.users, stdio); err != nil {
			return err
		}
	}
	todo := plan.Plan{Process: *p, Common: c.spec.Plan.Common, Entered: c.ownUsers || c.ownTime, Privileged: c.ownUsers}
	if err := process.begin(ctx, &todo, nil); err != nil {
		return err
	}
	if err := process.awaitReady(ctx); err != nil {
		return err
	}
	if c.ownUsers {
		if err := process.grant(p); err != nil {
			return err
		}
	}
	if c.Status() == Paused {
		return ErrPaused
	}
	return nil
}

// orNotRunning replaces the consequences of the container's end by the fact.
func (c *Container) orNotRunning(execID string, err error) error {
	var said *StageError
	if c.Status() == Stopped && !errors.As(err, &said) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("exec %s in container %s: %w", execID, c.id, ErrNotRunning)
	}
	return err
}

// SignalAll sends a signal to every process of the container. SIGKILL also
// reaches those that are being forked. A container without processes is no
// error.
func (c *Container) SignalAll(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		if c.init != nil { // which launch may be moving
			_ = c.init.Signal(sig) // ErrNotRunning is as good
		}
		return c.group.Kill()
	}
	pids, err := c.group.Pids()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("send signal %d to process %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}

// Pause stops all processes of the container and returns when they have
// stopped. Pausing a paused container does nothing.
func (c *Container) Pause(ctx context.Context) error {
	switch status := c.Status(); status {
	case Paused:
		return nil
	case Running:
	default:
		return fmt.Errorf("container %s is %s: %w", c.id, status.String(), ErrNotRunning)
	}
	// Before it is so: an exec that comes now must not get stuck.
	c.setPaused(true)
	if err := c.group.Freeze(ctx); err != nil {
		c.setPaused(false)
		return err
	}
	return nil
}

// Resume undoes Pause and returns when the processes run again.
func (c *Container) Resume(ctx context.Context) error {
	if c.Status() == Stopped {
		return fmt.Errorf("container %s is stopped: %w", c.id, ErrNotRunning)
	}
	if err := c.group.Thaw(ctx); err != nil {
		return err
	}
	c.setPaused(false)
	return nil
}

func (c *Container) setPaused(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
}

// Stats returns the container's use of resources; see [cgroup.Group.Stats].
func (c *Container) Stats() (*agentpb.CgroupStats, error) {
	stats, err := c.group.Stats()
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", c.id, err)
	}
	return stats, nil
}

// Update sets new limits; those that are not given stay.
func (c *Container) Update(resources *ocipb.LinuxResources) error {
	if err := cgroup.Validate(resources); err != nil {
		return refusef("resources.%v", err)
	}
	if err := c.group.Apply(resources); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// Pids returns the processes of the container, in the agent's pid namespace.
func (c *Container) Pids() ([]int, error) { return c.group.Pids() }

// Cgroup is the container's cgroup.
func (c *Container) Cgroup() *cgroup.Group { return c.group }

// Destroy kills whatever runs in the container, waits for its end, removes its
// cgroup and runs its last hooks, once. It may be called at any time and again;
// when ctx ends first its error is returned and the rest is still to be done.
func (c *Container) Destroy(ctx context.Context) error {
	if err := c.group.Destroy(ctx); err != nil {
		return err
	}
	if c.init == nil {
		return nil
	}
	c.mu.Lock()
	started := c.started
	c.started = true
	c.mu.Unlock()
	if !started {
		c.init.abandon()
	}
	select {
	case <-c.init.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	c.leftovers.Wait() // the init has ended, and the rest does not block
	c.stopHooks(ctx)
	return nil
}
