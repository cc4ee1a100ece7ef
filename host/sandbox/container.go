package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api"
	"kata/api/agentpb"
	"kata/host/rootfs"
	"kata/host/sandbox/guestspec"
	"kata/host/stdio"
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
	undo    undo

	mu    sync.Mutex
	execs map[string]*Process
}

// CreateContainer mounts and shares the root file system and the volumes, and
// creates the container in the guest; its process waits for Start. On failure
// nothing of it is left.
func (s *Sandbox) CreateContainer(ctx context.Context, o ContainerOptions) (*Container, error) {
	c := &Container{sandbox: s, id: o.ID, bundle: o.Bundle, execs: make(map[string]*Process)}
	if err := s.register(c); err != nil {
		return nil, err
	}
	c.undo.push("registration", func(context.Context) error { return s.unregister(c) })
	if err := s.store.addContainer(c.id); err != nil {
		return nil, errors.Join(err, c.undo.run(ctx))
	}
	if err := c.create(ctx, o); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if cause := s.Err(); cause != nil {
			err = fmt.Errorf("create container %s: %w", o.ID, cause)
		}
		return nil, errors.Join(err, c.undo.run(cleanup))
	}
	return c, nil
}

func (s *Sandbox) register(c *Container) error {
	if err := checkID(c.id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return fmt.Errorf("create container %s: sandbox %s has ended", c.id, s.id)
	}
	if _, ok := s.containers[c.id]; ok {
		return fmt.Errorf("container %s exists already in sandbox %s", c.id, s.id)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Sandbox) unregister(c *Container) error {
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	s.oom.forget(c.id)
	return s.store.removeContainer(c.id)
}

func (c *Container) create(ctx context.Context, o ContainerOptions) error {
	source, err := c.mountRootfs(o)
	if err != nil {
		return err
	}
	spec, err := c.shareFiles(o.Spec, source)
	if err != nil {
		return err
	}
	c.init = newProcess(c, "", o.Stdio)
	if err := c.init.connect(ctx); err != nil {
		return err
	}
	c.sandbox.log.Debug("stdio connected", "container", c.id)
	c.undo.push("stdio", func(context.Context) error { c.init.release(); return nil })
	ports := c.init.ports()
	ctx, cancel := context.WithTimeout(ctx, c.sandbox.cfg.Runtime.CreateContainerTimeout)
	defer cancel()
	_, err = c.sandbox.agent.service.CreateContainer(ctx, &agentpb.CreateContainerRequest{
		ContainerId: c.id, OCI: spec.OCI, SandboxPidns: spec.SandboxPidns,
		StdinPort: ports.stdin, StdoutPort: ports.stdout, StderrPort: ports.stderr,
	})
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.id, agentError(err))
	}
	c.undo.push("container in the guest", c.removeFromGuest)
	c.init.watch()
	c.sandbox.log.Debug("container created", "container", c.id)
	return nil
}

// mountRootfs returns the folder that holds the root file system.
func (c *Container) mountRootfs(o ContainerOptions) (string, error) {
	target := filepath.Join(o.Bundle, "rootfs")
	if len(o.Rootfs) > 0 {
		if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("container %s: create mount point: %w", c.id, err)
		}
		if err := rootfs.MountAll(o.Rootfs, target); err != nil {
			return "", fmt.Errorf("container %s: %w", c.id, err)
		}
		c.undo.push("root file system", func(context.Context) error {
			var err error
			for range o.Rootfs {
				err = errors.Join(err, rootfs.Unmount(target))
			}
			return err
		})
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

// shareFiles exports the root file system and the bind mounts to the guest and
// returns the spec as the guest sees it.
func (c *Container) shareFiles(spec *specs.Spec, source string) (*guestspec.Spec, error) {
	tree := c.sandbox.tree
	c.undo.push("shared folder", func(context.Context) error { return tree.RemoveContainer(c.id) })
	// A read-only root file system is sealed by the guest, after it has made the
	// mount points that the image lacks.
	path, undo, err := tree.AddRootfs(c.id, source, false)
	if err != nil {
		return nil, fmt.Errorf("container %s: share root file system: %w", c.id, err)
	}
	c.undo.push("shared root file system", func(context.Context) error { return undo() })
	out, err := guestspec.Convert(spec, guestspec.Options{
		Rootfs:       path,
		DropSeccomp:  c.sandbox.cfg.Runtime.DisableGuestSeccomp,
		SharedShm:    api.GuestShm,
		SandboxPidns: false,
	})
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	for n, b := range out.Binds {
		path, undo, err := tree.AddBind(c.id, n, b.Source, b.Readonly, b.Recursive)
		if err != nil {
			return nil, fmt.Errorf("container %s: mount %s: %w", c.id, b.Mount.Destination, err)
		}
		c.undo.push("shared mount "+b.Mount.Destination, func(context.Context) error { return undo() })
		b.Mount.Source = path
	}
	for _, w := range out.Ignored {
		c.sandbox.log.Warn("part of the spec has no effect", "container", c.id, "part", w)
	}
	return out, nil
}

// removeFromGuest runs under Delete and failed creation; a guest that is gone
// holds nothing.
func (c *Container) removeFromGuest(ctx context.Context) error {
	_, err := c.sandbox.agent.service.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: c.id})
	if err != nil && c.sandbox.ended() {
		return nil
	}
	return agentError(err)
}

func (s *Sandbox) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
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
	return agentError(err)
}

// Delete removes the container from the guest and releases its files. A
// running container is killed first. It is idempotent.
func (c *Container) Delete(ctx context.Context) error { return c.undo.run(ctx) }
