package sandbox

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/journal"
	"kata/host/taskpid"
	"kata/host/undo"
)

const (
	// hostProcessTimeout bounds the end of a process that does nothing.
	hostProcessTimeout = 5 * time.Second
	// hostKillTimeout bounds the signal that follows when somebody has killed it.
	hostKillTimeout = 30 * time.Second
	sigkill         = 9
)

// startHostProcess starts the process on the host that stands for the
// container's first one, with its root file system at root.
func (c *Container) startHostProcess(ctx context.Context, spec *specs.Spec, root string) error {
	o := taskpid.Options{ID: c.id, Root: root, Readonly: spec.Root != nil && spec.Root.Readonly}
	if linux := spec.Linux; linux != nil {
		o.NetNS = namespacePath(linux.Namespaces, specs.NetworkNamespace)
		o.Cgroup = taskpid.NewCgroup(linux.CgroupsPath)
		c.hostCgroup = o.Cgroup
	}
	if process := spec.Process; process != nil && process.OOMScoreAdj != nil {
		o.OOMScoreAdj = *process.OOMScoreAdj
	}
	if dirs := o.Cgroup.Dirs(); len(dirs) > 0 {
		if _, err := c.undo.Hold(journal.CgroupDirs{Paths: dirs}, undo.Plain); err != nil {
			return err
		}
		o.Cgroup.Make()
		// Others' cgroups, such as a pod's that was there, keep their limits.
		if linux := spec.Linux; linux != nil {
			c.limitOnHost(linux.Resources)
		}
	}
	entry := journal.Process{Name: "container " + c.id}
	held, err := c.undo.Hold(entry, undo.Plain)
	if err != nil {
		return err
	}
	p, err := taskpid.Start(ctx, c.sandbox.spawner, o)
	if err != nil {
		return err
	}
	c.undo.Push("the host's process", undo.Plain, func(ctx context.Context) error {
		ctx, cancel := undo.Grace(ctx)
		defer cancel()
		return p.Kill(ctx)
	})
	c.init.host = p
	entry.ID = p.ID()
	return held.Amend(entry)
}

// limitOnHost shows a container's memory limit on the host, where clients look for
// it by the container's pid; the one that counts is in the guest.
func (c *Container) limitOnHost(r *specs.LinuxResources) {
	if r != nil && r.Memory != nil && r.Memory.Limit != nil && len(c.hostCgroup.Dirs()) > 0 {
		c.hostCgroup.LimitMemory(*r.Memory.Limit)
	}
}

func namespacePath(namespaces []specs.LinuxNamespace, kind specs.LinuxNamespaceType) string {
	for _, n := range namespaces {
		if n.Type == kind {
			return n.Path
		}
	}
	return ""
}

// startHostProcess starts the process that stands for an exec.
func (p *Process) startHostProcess(ctx context.Context) error {
	host, err := p.container.init.host.Exec(ctx, p.execID)
	if err != nil {
		return err
	}
	p.host = host
	return nil
}

// PID returns the pid on the host that stands for the process; 0 for an exec
// that was not started.
func (p *Process) PID() int {
	if p.host == nil {
		return 0
	}
	return p.host.ID().PID
}

// watchHost kills the process in the guest when the one on the host that stands
// for it has been killed. It returns when the exit is known.
func (p *Process) watchHost() {
	select {
	case <-p.exited:
		return
	case <-p.host.Done():
	}
	select {
	case <-p.exited: // and so we have ended it
		return
	default:
	}
	p.container.sandbox.log.Info("its process on the host was killed", "container", p.container.id, "exec", p.execID)
	ctx, cancel := context.WithTimeout(context.Background(), hostKillTimeout)
	defer cancel()
	if err := p.Signal(ctx, sigkill); err != nil {
		p.container.sandbox.log.Debug("kill what stood for it", "container", p.container.id, "exec", p.execID, "error", err)
	}
	<-p.exited
}

// endHost ends the process on the host, so that a pid that is there means a
// process that is.
func (p *Process) endHost() {
	if p.host == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostProcessTimeout)
	defer cancel()
	if err := p.host.Kill(ctx); err != nil {
		p.container.sandbox.log.Warn("end the process on the host", "container", p.container.id, "exec", p.execID, "error", err)
	}
}
