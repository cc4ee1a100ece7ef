package sandbox

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/container"
	"kata/guest/container/oom"
	"kata/guest/container/stream"
	"kata/guest/machine/device/assign"
	"kata/guest/storage"
	"kata/lib/fmt"
)

// Container is one container of the pod.
type Container struct {
	id      string
	sandbox *Sandbox

	// alive ends when removal begins; operations run under it.
	alive context.Context
	kill  context.CancelCauseFunc

	oom *oom.Container // set before there is a process

	devices *assign.Set // set before anybody can see the Container

	mu         sync.Mutex
	removing   bool
	operations int
	idle       chan struct{} // made and closed when removal waits for operations
	started    bool
	runtime    *container.Container
	storages   *storage.Set
	init       *Process
	processes  map[string]*Process
	order      []*Process    // in the order added, init included
	past       []past        // execs that have ended, at most keepExited
	removal    chan struct{} // capacity 1: who removes holds it
}

var errRemoved = errors.New("the container is being removed")

// ContainerOptions are what a container is made with.
type ContainerOptions struct {
	ID string
	// ExecID is another name of its first process, ID when empty.
	ExecID   string
	Spec     *ocipb.Spec
	Storages []*agentpb.Storage
	// Devices are written into Spec.
	Devices []*agentpb.Device
	Ports   stream.Ports
	// Names of its user, where Spec has numbers.
	Names container.Names
	// SharedMounts are parts of other containers that it gets; see
	// CheckSharedMounts.
	SharedMounts []*agentpb.SharedMount
	// SandboxPidns puts it into the pod's pid namespace, which the first such
	// container makes.
	SandboxPidns bool
}

// CreateContainer adds a container whose first process waits to be started. If
// anything fails nothing of it is left.
func (s *Sandbox) CreateContainer(ctx context.Context, o ContainerOptions) (err error) {
	c := &Container{id: o.ID, sandbox: s, processes: make(map[string]*Process), removal: make(chan struct{}, 1)}
	c.alive, c.kill = context.WithCancelCause(context.Background())
	// It is not known to anybody before begin: nobody can remove it then.
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.add(c); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.cfg.Storages.LetGo()
			s.forget(c)
		}
	}()
	select {
	case <-s.cfg.Ready:
	case <-ctx.Done():
		return fmt.Errorf("container %s: wait for the machine: %w", c.id, context.Cause(ctx))
	}
	devices, err := assign.Assign(ctx, s.cfg.Devices, o.Devices, o.Spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, devices.Release())
		}
	}()
	c.devices = devices
	storages, err := s.cfg.Storages.Mount(ctx, o.Storages)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, storages.Unmount())
		}
	}()
	return c.create(ctx, o, storages)
}

// create makes the container itself and its first process.
func (c *Container) create(ctx context.Context, o ContainerOptions, storages *storage.Set) error {
	shared, err := c.sharedMounts(o.SharedMounts)
	if err != nil {
		return err
	}
	options := container.Options{Names: o.Names, Shared: shared}
	if o.SandboxPidns {
		if options.JoinPID, err = c.joinPIDs(o.Spec); err != nil {
			return err
		}
	}
	p, err := c.openStreams(ctx, o.ExecID, o.Ports, o.Spec.GetProcess().GetTerminal())
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	c.sandbox.addHooks(o.Spec)
	created, err := c.sandbox.cfg.Runtime.Create(ctx, c.id, o.Spec, p.child(), options)
	if err != nil {
		p.close()
		return err
	}
	c.oom = c.sandbox.cfg.OOM.Watch(c.id, created.Cgroup())
	if err := p.run(created.Init()); err != nil {
		c.oom.Close()
		err = errors.Join(err, created.Destroy(context.WithoutCancel(ctx)))
		p.close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runtime, c.storages, c.init = created, storages, p
	c.order = append(c.order, p)
	c.processes[""] = p
	c.processes[cmp.Or(o.ExecID, o.ID)] = p
	return nil
}

// joinPIDs returns the container whose pid namespace is the pod's. If that is c
// itself spec gets a pid namespace.
func (c *Container) joinPIDs(spec *ocipb.Spec) (*container.Container, error) {
	if owner := c.sandbox.sharePIDs(c); owner != c {
		r, err := owner.Runtime()
		if err != nil {
			return nil, fmt.Errorf("join the pod's pid namespace: %w", err)
		}
		return r, nil
	}
	if spec.Linux == nil {
		spec.Linux = new(ocipb.Linux)
	}
	isPID := func(n *ocipb.LinuxNamespace) bool { return n.GetType() == "pid" }
	if !slices.ContainsFunc(spec.Linux.Namespaces, isPID) {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "pid"})
	}
	return nil, nil
}

// begin starts an operation on the container. The context it returns ends with
// ctx and with the container; end has to be called when the operation is over.
func (c *Container) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removing {
		return nil, nil, fmt.Errorf("container %q: %w: %w", c.id, ErrNotFound, errRemoved)
	}
	c.operations++
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(c.alive, func() { cancel(errRemoved) })
	return ctx, func() {
		unhook()
		cancel(context.Canceled)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.operations--; c.operations == 0 && c.idle != nil {
			close(c.idle)
			c.idle = nil
		}
	}, nil
}

// Runtime returns the container as the container runtime has it, for what needs
// no more than that.
func (c *Container) Runtime() (*container.Container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.removing:
		return nil, fmt.Errorf("container %q: %w: %w", c.id, ErrNotFound, errRemoved)
	case c.runtime == nil:
		return nil, fmt.Errorf("container %q is being created: %w", c.id, ErrState)
	}
	return c.runtime, nil
}

// Start lets the container's first process run, once.
func (c *Container) Start(ctx context.Context) error {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	r, err := c.Runtime()
	if err != nil {
		return err
	}
	c.mu.Lock()
	again := c.started
	c.started = true
	c.mu.Unlock()
	if again {
		return fmt.Errorf("container %q has been started before: %w", c.id, ErrState)
	}
	return r.Start(ctx)
}

// Remove kills what is left of the container, waits until ctx ends for it to be
// gone, and releases everything the container had. If it fails it can be called
// again; nothing else can be done to the container then.
func (c *Container) Remove(ctx context.Context) error {
	select {
	case c.removal <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("remove container %s: %w", c.id, ctx.Err())
	}
	defer func() { <-c.removal }()
	if err := c.remove(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) remove(ctx context.Context) error {
	select {
	case <-c.stop():
	case <-ctx.Done():
		return fmt.Errorf("wait for calls to end: %w", ctx.Err())
	}
	if known, err := c.sandbox.Container(c.id); err != nil || known != c {
		return ErrNotFound // its creation failed, or somebody else has removed it
	}
	c.mu.Lock()
	r, processes, storages := c.runtime, slices.Clone(c.order), c.storages
	c.mu.Unlock()
	// After this nothing can be killed for want of memory any more.
	if err := r.SignalAll(unix.SIGKILL); err != nil {
		return err
	}
	c.oom.Close()
	if err := r.Destroy(ctx); err != nil {
		return err
	}
	for _, p := range processes {
		select {
		case <-p.exited:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to exit: %w", p.String(), ctx.Err())
		}
		p.close()
	}
	err := errors.Join(storages.Release(), c.devices.Release())
	c.sandbox.cfg.Storages.LetGo()
	c.sandbox.cfg.Storages.LetGo()
	c.sandbox.forget(c)
	return err
}

// stop refuses new operations and cancels those that run. The channel is closed
// when there is none any more.
func (c *Container) stop() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removing = true
	c.kill(errRemoved)
	none := make(chan struct{})
	switch {
	case c.operations == 0:
		close(none)
		return none
	case c.idle == nil:
		c.idle = none
	}
	return c.idle
}
