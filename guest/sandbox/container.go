package sandbox

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/container/ocispec"
	"kata/guest/container/oom"
	"kata/guest/container/plan"
	"kata/guest/container/stream"
	"kata/lib/fmt"
)

// Container is one container of the pod.
type Container struct {
	id      string
	sandbox *Sandbox

	// alive ends when removal begins; operations run under it.
	alive context.Context
	kill  context.CancelCauseFunc

	// waits are the goroutines that await the exits of its processes.
	waits sync.WaitGroup

	mu        sync.Mutex
	gate      gate
	started   bool
	created   bool           // its creation succeeded
	oom       *oom.Container // set with runtime
	runtime   Instance       // nil while it is being created
	devices   Assigned
	storages  Mounts
	init      *Process
	processes map[string]*Process
	order     []*Process // in the order added, init included
	past      []past     // execs that have ended, at most keepExited
	removal   *attempt   // the last one, nil before
	waitsFor  string     // what the removal waits for
}

// ContainerOptions are what a container is made with.
type ContainerOptions struct {
	// ExecID is another name of its first process, the container's ID when empty.
	ExecID string
	// Spec becomes the container's.
	Spec     *ocispec.Container
	Storages []*agentpb.Storage
	// Devices are written into Spec.
	Devices []*agentpb.Device
	Ports   stream.Ports
	// SharedMounts are parts of other containers that it gets; see
	// CheckSharedMounts.
	SharedMounts []*agentpb.SharedMount
	// SandboxPidns puts it into the pod's pid namespace, which the first such
	// container makes.
	SandboxPidns bool
}

// CreateContainer adds a container whose first process waits to be started. If
// anything fails nothing of it is left, or the error says what: that is removed
// in the background, as [Container.Remove] does.
func (s *Sandbox) CreateContainer(ctx context.Context, o ContainerOptions) error {
	c := &Container{id: o.Spec.ID(), sandbox: s, processes: make(map[string]*Process)}
	c.alive, c.kill = context.WithCancelCause(context.Background())
	// It is not known to anybody before begin: nobody can remove it then.
	within, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	if err := s.add(c); err != nil {
		end()
		return err
	}
	err = c.create(within, o)
	end()
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("container %s: %w", c.id, err), c.Remove(context.WithoutCancel(ctx)))
}

// create makes the container with everything it needs. What it has made so far is
// in c, for a removal to find.
func (c *Container) create(ctx context.Context, o ContainerOptions) error {
	cfg := &c.sandbox.cfg
	if err := cfg.awaitMachine(ctx); err != nil {
		return err
	}
	devices, err := cfg.Devices.Assign(ctx, o.Devices, o.Spec)
	if err != nil {
		return err
	}
	c.has(func() { c.devices = devices })
	storages, err := cfg.Storages.Mount(ctx, o.Storages)
	if err != nil {
		return err
	}
	c.has(func() { c.storages = storages })
	ctx, shared, release, err := c.sharedMounts(ctx, o.SharedMounts)
	if err != nil {
		return err
	}
	defer release()
	options := RuntimeOptions{Shared: shared}
	if o.SandboxPidns {
		var end func()
		if ctx, options.JoinPID, end, err = c.joinPIDs(ctx, &o.Spec.Plan); err != nil {
			return err
		}
		defer end()
	}
	return c.run(ctx, o, options)
}

// has notes what the container has from now on.
func (c *Container) has(set func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set()
}

// run makes the container's first process.
func (c *Container) run(ctx context.Context, o ContainerOptions, options RuntimeOptions) error {
	cfg := &c.sandbox.cfg
	p, err := c.openStreams(ctx, o.ExecID, o.Ports, o.Spec.Plan.Process.Terminal)
	if err != nil {
		return err
	}
	c.sandbox.addHooks(o.Spec)
	made, err := cfg.Runtime.Create(ctx, o.Spec, p.child(), options)
	if err != nil {
		p.close()
		c.failed(made)
		return err
	}
	watched := cfg.OOM.Watch(c.id, made.Cgroup())
	c.has(func() { c.oom = watched })
	if err := p.run(made.Init()); err != nil {
		p.close()
		c.failed(made)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.created = !c.gate.closed; !c.created {
		// Whoever removes it waits for this operation.
		c.runtime, c.order = made, append(c.order, p)
		return errRemoved
	}
	c.runtime, c.init = made, p
	c.order = append(c.order, p)
	c.processes[""] = p
	c.processes[cmp.Or(o.ExecID, c.id)] = p
	return nil
}

// failed leaves what was made of a container, nil for nothing, to its removal.
func (c *Container) failed(made Instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.closed = true // for calls: there is nothing to do to it
	c.runtime = made
}

// joinPIDs returns the container whose pid namespace is the pod's, and holds it
// until end. If that is c itself it gets a pid namespace.
func (c *Container) joinPIDs(ctx context.Context, p *plan.Plan) (_ context.Context, joined Instance, end func(), err error) {
	if owner := c.sandbox.sharePIDs(c); owner != c {
		within, r, end, err := owner.use(ctx)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("join the pod's pid namespace: %w", err)
		}
		return within, r, end, nil
	}
	if p.Namespace(unix.CLONE_NEWPID) == nil {
		p.Namespaces = append(p.Namespaces, plan.Namespace{Type: "pid", Flag: unix.CLONE_NEWPID})
	}
	return ctx, nil, func() {}, nil
}

// Start lets the container's first process run, once.
func (c *Container) Start(ctx context.Context) error {
	return c.With(ctx, func(ctx context.Context, r Instance) error {
		c.mu.Lock()
		again := c.started
		c.started = true
		c.mu.Unlock()
		if again {
			return fmt.Errorf("container %q has been started before: %w", c.id, ErrState)
		}
		return r.Start(ctx)
	})
}
