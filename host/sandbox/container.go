package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/journal"
	"kata/host/rootfs"
	"kata/host/sandbox/guestspec"
	"kata/host/stdio"
	"kata/host/taskpid"
	"kata/host/undo"
)

// ContainerOptions describe a container as containerd asks for it.
type ContainerOptions struct {
	ID     string
	Bundle string
	// Rootfs are mounted on <bundle>/rootfs; without any, the spec's root.path
	// must already be the root file system.
	Rootfs []rootfs.Mount
	Spec   *specs.Spec
	Stdio  stdio.Config
}

// Container is one container of the pod. Its methods may be called from
// several goroutines; the agent serialises what must not overlap.
type Container struct {
	sandbox *Sandbox
	id      string
	bundle  string
	init    *Process
	undo    *undo.Stack
	hooks   hooks
	// hooked says that hooks have run, so that those after the end are to run;
	// it belongs to the creation and then to the undo stack.
	hooked bool

	created chan struct{} // closed when CreateContainer has ended, either way
	// hostCgroup is that of the process on the host; nil if the spec names none.
	hostCgroup *taskpid.Cgroup
	removed    chan struct{} // closed when it was taken out of the guest
	abandoned  bool          // its creation failed; guarded by Sandbox.mu

	mu    sync.Mutex
	execs map[string]*Process
	// answered is closed when the agent has answered the call that creates the
	// container, or cannot any more; nil before the call.
	answered chan struct{}
}

// CreateContainer mounts and shares the root file system and the volumes, and
// creates the container in the guest; its process waits for Start. On failure, and
// when ctx ends first, nothing of it is left in the guest or on the host, unless
// the error says so: that is tried again by the next creation under the id and by
// Stop.
func (s *Sandbox) CreateContainer(ctx context.Context, o ContainerOptions) (*Container, error) {
	ctx, stop := s.whileAlive(ctx)
	defer stop()
	c := &Container{
		sandbox: s, id: o.ID, bundle: o.Bundle, undo: undo.New(s.journal),
		created: make(chan struct{}), removed: make(chan struct{}), execs: make(map[string]*Process),
	}
	if err := s.register(ctx, c); err != nil {
		return nil, err
	}
	defer close(c.created)
	c.undo.Push("the container's id", undo.Last, func(context.Context) error { s.unregister(c); return nil })
	err := c.create(ctx, o)
	if err == nil {
		return c, nil
	}
	if cause := s.Err(); cause != nil {
		err = fmt.Errorf("create container %s: %w", o.ID, cause)
	}
	s.mu.Lock()
	c.abandoned = true
	s.mu.Unlock()
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return nil, errors.Join(err, c.undo.Run(cleanup))
}

// whileAlive returns a context that ends with ctx and with the sandbox.
func (s *Sandbox) whileAlive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.done:
			cancel(fmt.Errorf("sandbox %s has ended", s.id))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-ended }
}

// register enters the container. One of the same id whose creation failed makes
// way, if what is left of it can be released now.
func (s *Sandbox) register(ctx context.Context, c *Container) error {
	if err := journal.CheckID(c.id); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	for {
		s.mu.Lock()
		other, ok := s.containers[c.id]
		finished, abandoned := s.finished, ok && other.abandoned
		if !finished && !ok {
			s.containers[c.id] = c
		}
		s.mu.Unlock()
		switch {
		case finished:
			return fmt.Errorf("create container %s: sandbox %s has ended", c.id, s.id)
		case !ok:
			return nil
		case !abandoned:
			return fmt.Errorf("container %s exists already in sandbox %s", c.id, s.id)
		}
		if err := other.undo.Run(ctx); err != nil {
			return fmt.Errorf("create container %s: release what an earlier creation has left: %w", c.id, err)
		}
	}
}

func (s *Sandbox) unregister(c *Container) {
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	s.oom.forget(c.id)
}

// releaseContainers releases what containers hold of the host, when the guest is
// dead. Creations under way, which fail by now, release their own.
func (s *Sandbox) releaseContainers(ctx context.Context) error {
	s.mu.Lock()
	containers := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	var errs []error
	for _, c := range containers {
		select {
		case <-c.created:
			errs = append(errs, c.undo.Run(ctx))
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("wait for the creation of container %s to end: %w", c.id, context.Cause(ctx)))
		}
	}
	return errors.Join(errs...)
}

func (c *Container) create(ctx context.Context, o ContainerOptions) error {
	// People look for a pod by its containers.
	if _, err := c.undo.Hold(journal.Container{ID: c.id}, undo.UsedByGuest); err != nil {
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	held, err := c.holdHooks(o.Spec)
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	source, err := c.mountRootfs(o)
	if err != nil {
		return err
	}
	spec, err := c.shareFiles(o.Spec, source)
	if err != nil {
		return err
	}
	c.init = newProcess(c, "", o.Stdio)
	if err := c.startHostProcess(ctx, o.Spec, source); err != nil {
		return err
	}
	if err := c.createdHooks(ctx, held); err != nil {
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	if err := c.init.connect(ctx); err != nil {
		return err
	}
	c.sandbox.log.Debug("stdio connected", "container", c.id)
	c.undo.Push("stdio", undo.Plain, func(context.Context) error { c.init.release(); return nil })
	if err := c.createInGuest(ctx, spec); err != nil {
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	c.init.watch()
	c.sandbox.log.Debug("container created", "container", c.id)
	return nil
}

// createInGuest has the agent create the container. Its removal is on the stack
// before the call: whatever becomes of the answer, the guest may have one.
func (c *Container) createInGuest(ctx context.Context, spec *guestspec.Spec) error {
	ports := c.init.ports()
	request := &agentpb.CreateContainerRequest{
		ContainerId: c.id, OCI: spec.OCI, SandboxPidns: spec.SandboxPidns,
		StdinPort: ports.stdin, StdoutPort: ports.stdout, StderrPort: ports.stderr,
	}
	c.undo.Push("the container in the guest", undo.EndsGuest, func(ctx context.Context) error {
		err := c.removeFromGuest(ctx)
		if err == nil {
			close(c.removed) // the step succeeds once
		}
		return err
	})
	limit := c.sandbox.cfg.CreateTimeout
	// The call goes on when ctx ends, so that it is known when it has ended.
	call, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("the guest did not create it within %s", limit))
	answered := make(chan struct{})
	c.mu.Lock()
	c.answered = answered
	c.mu.Unlock()
	var err error
	go func() {
		defer close(answered)
		defer cancel()
		_, err = c.sandbox.agent.service.CreateContainer(call, request)
	}()
	select {
	case <-answered:
		return agentError(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// removeFromGuest takes the container out of the guest. One that the agent does
// not know is out, and a guest that is dead has none. A creation under way is
// ended: the first call has the agent abandon it; when the creation has been
// answered, the second call finds what it may have made.
func (c *Container) removeFromGuest(ctx context.Context) error {
	gone := c.sandbox.guest.Gone()
	c.mu.Lock()
	answered := c.answered
	c.mu.Unlock()
	select {
	case <-gone:
		<-answered // it fails with its connection
		return nil
	case <-answered:
	default:
		_ = c.remove(ctx)
		select {
		case <-answered:
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of its creation: %w", context.Cause(ctx))
		}
	}
	err := c.remove(ctx)
	if err == nil {
		return nil
	}
	select {
	case <-c.sandbox.done:
	case <-c.sandbox.agent.lost():
	default:
		return err
	}
	timer := time.NewTimer(releaseTimeout)
	defer timer.Stop()
	select { // the machine is being stopped
	case <-gone:
		return nil
	case <-timer.C:
		return err
	case <-ctx.Done():
		return err
	}
}

func (c *Container) remove(ctx context.Context) error {
	_, err := c.sandbox.agent.service.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: c.id})
	if ttrpc.CodeOf(err) == ttrpc.NotFound {
		return nil
	}
	return agentError(err)
}

// mountRootfs returns the folder that holds the root file system.
func (c *Container) mountRootfs(o ContainerOptions) (string, error) {
	if len(o.Rootfs) > 0 {
		target := filepath.Join(o.Bundle, "rootfs")
		if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("container %s: create mount point: %w", c.id, err)
		}
		if err := c.holdMount(target); err != nil {
			return "", err
		}
		if err := rootfs.MountAll(o.Rootfs, target); err != nil {
			return "", fmt.Errorf("container %s: %w", c.id, err)
		}
		return target, nil
	}
	if o.Spec.Root == nil || o.Spec.Root.Path == "" {
		return "", fmt.Errorf("container %s: the spec names no root file system (root.path)", c.id)
	}
	path := o.Spec.Root.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(o.Bundle, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("container %s: root file system: %w", c.id, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("container %s: root file system %s is not a folder", c.id, path)
	}
	return path, nil
}

// holdMount writes down what is going to be mounted on target.
func (c *Container) holdMount(target string) error {
	entry, err := journal.NewMount(target)
	if err == nil {
		_, err = c.undo.Hold(entry, undo.UsedByGuest)
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// shareFiles exports the root file system and the bind mounts to the guest and
// returns the spec as the guest sees it.
func (c *Container) shareFiles(spec *specs.Spec, source string) (*guestspec.Spec, error) {
	files := c.sandbox.guest.Files()
	c.undo.Push("the container's shared folder", undo.UsedByGuest, func(context.Context) error { return files.RemoveContainer(c.id) })
	if err := c.holdMount(files.RootfsTarget(c.id)); err != nil {
		return nil, err
	}
	// A read-only root file system is sealed by the guest, after it has made the
	// mount points that the image lacks.
	path, unshare, err := files.AddRootfs(c.id, source, false)
	if err != nil {
		return nil, fmt.Errorf("container %s: share root file system: %w", c.id, err)
	}
	c.undo.Push("the shared root file system", undo.UsedByGuest, func(context.Context) error { return unshare() })
	out, err := guestspec.Convert(spec, guestspec.Options{
		Rootfs:       path,
		DropSeccomp:  c.sandbox.cfg.DropSeccomp,
		SharedShm:    api.GuestShm,
		SandboxPidns: false,
	})
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	for n, b := range out.Binds {
		if b.Mount.Source, err = c.shareBind(files, n, b); err != nil {
			return nil, err
		}
	}
	for _, w := range out.Ignored {
		c.sandbox.log.Warn("part of the spec has no effect", "container", c.id, "part", w)
	}
	return out, nil
}

// shareBind exports one bind mount and returns its path in the guest.
func (c *Container) shareBind(files guestvm.Files, n int, b guestspec.Bind) (string, error) {
	if err := c.holdMount(files.BindTarget(c.id, n, b.Source)); err != nil {
		return "", err
	}
	path, unshare, err := files.AddBind(c.id, n, b.Source, b.Readonly, b.Recursive)
	if err != nil {
		return "", fmt.Errorf("container %s: mount %s: %w", c.id, b.Mount.Destination, err)
	}
	c.undo.Push("shared mount "+b.Mount.Destination, undo.UsedByGuest, func(context.Context) error { return unshare() })
	return path, nil
}

// ID returns the container's id.
func (c *Container) ID() string { return c.id }

// Bundle returns the container's bundle folder.
func (c *Container) Bundle() string { return c.bundle }

// Init returns the container's first process.
func (c *Container) Init() *Process { return c.init }

// Start lets the container's first process run.
func (c *Container) Start(ctx context.Context) error { return c.init.Start(ctx) }

// Exec registers a process to be started inside the container by
// Process.Start; its stdio is opened then.
func (c *Container) Exec(_ context.Context, execID string, spec *specs.Process, io stdio.Config) (*Process, error) {
	converted, err := guestspec.ConvertProcess(spec)
	if err != nil {
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.id, err)
	}
	p := newProcess(c, execID, io)
	p.spec = converted
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok {
		return nil, fmt.Errorf("exec %s exists already in container %s", execID, c.id)
	}
	c.execs[execID] = p
	return p, nil
}

// Kill sends the signal to every process of the container.
func (c *Container) Kill(ctx context.Context, sig uint32) error {
	if sig == sigkill {
		c.init.mustEnd()
	}
	_, err := c.sandbox.agent.service.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: c.id, Signal: sig, All: true})
	return agentError(err)
}

// Pause freezes every process of the container.
func (c *Container) Pause(ctx context.Context) error {
	_, err := c.sandbox.agent.service.PauseContainer(ctx, &agentpb.PauseContainerRequest{ContainerId: c.id})
	return agentError(err)
}

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	_, err := c.sandbox.agent.service.ResumeContainer(ctx, &agentpb.ResumeContainerRequest{ContainerId: c.id})
	return agentError(err)
}

// Processes counts the processes that run in the container.
func (c *Container) Processes(ctx context.Context) (int, error) {
	resp, err := c.sandbox.agent.service.ListProcesses(ctx, &agentpb.ListProcessesRequest{ContainerId: c.id, Format: "json"})
	if err != nil {
		return 0, agentError(err)
	}
	var pids []int
	if err := json.Unmarshal(resp.ProcessList, &pids); err != nil {
		return 0, fmt.Errorf("list the processes of container %s: the agent's answer is no list of numbers", c.id)
	}
	return len(pids), nil
}

// Stats reads the container's cgroup in the guest.
func (c *Container) Stats(ctx context.Context) (*agentpb.StatsContainerResponse, error) {
	resp, err := c.sandbox.agent.service.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: c.id})
	return resp, agentError(err)
}

// Update changes the container's limits in the guest.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	resources, err := guestspec.ConvertResources(r)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	_, err = c.sandbox.agent.service.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: c.id, Resources: resources})
	if err == nil {
		c.limitOnHost(r)
	}
	return agentError(err)
}

// Delete removes the container from the guest and releases its files. A
// running container is killed first. What could not be released is named by the
// error and tried again by the next call; after one that returned nil there is
// nothing left to do.
func (c *Container) Delete(ctx context.Context) error { return c.undo.Run(ctx) }
