package container

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/agent/reaper"
	"kata/guest/container/hooks"
	"kata/guest/container/stage"
	"kata/lib/fmt"
)

// withoutHostsHooks returns spec without those createContainer hooks whose program
// the guest does not have. Their paths are of the runtime's namespaces, which
// clients take for the host's; the driver of a device there has no business here.
// (startContainer's are of the container: one that is missing is an error.)
func (r *Runtime) withoutHostsHooks(id string, spec *ocipb.Spec) *ocipb.Spec {
	all := hooks.Of(spec.Hooks, hooks.CreateContainer)
	var kept []*ocipb.Hook
	for _, h := range all {
		if err := unix.Access(h.Path, unix.F_OK); err == unix.ENOENT || err == unix.ENOTDIR {
			r.config.Log.Warn("hook skipped: the guest does not have its program", "container", id, "hook", "createContainer", "path", h.Path)
			continue
		}
		kept = append(kept, h)
	}
	if len(kept) == len(all) {
		return spec
	}
	copied, h := *spec, *spec.Hooks
	h.CreateContainer, copied.Hooks = kept, &h
	return &copied
}

// createHooks runs the hooks of a container whose environment is there.
func (c *Container) createHooks(ctx context.Context) error {
	state := stage.State(c.spec, c.id, "creating", c.init.PID())
	for _, k := range [...]hooks.Kind{hooks.Prestart, hooks.CreateRuntime} {
		if err := c.rt.hooks().Run(ctx, k, hooks.Of(c.spec.Hooks, k), state); err != nil {
			return err
		}
	}
	return nil
}

// startHooks runs the hooks of a container that has been started; their
// failures are logged.
func (c *Container) startHooks(ctx context.Context) {
	c.logged(ctx, hooks.Poststart, stage.State(c.spec, c.id, "running", c.init.PID()))
}

// stopHooks runs, once, the hooks of a container that has ended; their failures
// are logged.
func (c *Container) stopHooks(ctx context.Context) {
	c.mu.Lock()
	again := c.stopped
	c.stopped = true
	c.mu.Unlock()
	if !again {
		c.logged(ctx, hooks.Poststop, stage.State(c.spec, c.id, "stopped", 0))
	}
}

func (c *Container) logged(ctx context.Context, k hooks.Kind, state hooks.State) {
	c.rt.hooks().RunAll(ctx, k, hooks.Of(c.spec.Hooks, k), state, func(err error) {
		c.rt.config.Log.Warn("hook failed", "container", c.id, "error", err)
	})
}

// hooks starts hooks as children of the agent.
func (r *Runtime) hooks() hooks.Start {
	return func(fork func() (int, error)) (hooks.Child, error) {
		p, err := r.config.Reaper.Start(fork)
		if err != nil {
			return nil, err
		}
		// The agent's own, which a child inherits, would spare it.
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID()), []byte("0"), 0)
		return hook{p}, nil
	}
}

// hook is a hook that runs.
type hook struct{ process *reaper.Process }

// Kill implements hooks.Child.
func (h hook) Kill() { _ = h.process.SignalGroup(unix.SIGKILL) } // ErrEnded is as good

// Wait implements hooks.Child.
func (h hook) Wait() int {
	<-h.process.Done()
	return h.process.Exit().Status
}
