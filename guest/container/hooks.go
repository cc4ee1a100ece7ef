package container

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/container/hooks"
	"kata/guest/container/ocispec"
	"kata/lib/fmt"
)

// planHooks gives the stage its hooks, without those createContainer hooks whose
// program the guest does not have. Their paths are of the runtime's namespaces, which
// clients take for the host's; the driver of a device there has no business here.
// (startContainer's are of the container: one that is missing is an error.)
func (r *Runtime) planHooks(spec *ocispec.Container) {
	p := &spec.Plan
	p.AwaitsHooks = len(spec.Hooks[hooks.Prestart])+len(spec.Hooks[hooks.CreateRuntime]) > 0
	p.StartContainer = spec.Hooks[hooks.StartContainer]
	for _, h := range spec.Hooks[hooks.CreateContainer] {
		if err := unix.Access(h.Path, unix.F_OK); err == unix.ENOENT || err == unix.ENOTDIR {
			r.config.Log.Warn("hook skipped: the guest does not have its program", "container", spec.ID(), "hook", "createContainer", "path", h.Path)
			continue
		}
		p.CreateContainer = append(p.CreateContainer, h)
	}
}

// state is what hooks are told.
func (c *Container) state(status string, pid int) hooks.State {
	state := c.spec.Plan.State
	state.Status, state.PID = status, pid
	return state
}

// createHooks runs the hooks of a container whose environment is there.
func (c *Container) createHooks(ctx context.Context) error {
	state := c.state("creating", c.init.PID())
	for _, k := range [...]hooks.Kind{hooks.Prestart, hooks.CreateRuntime} {
		if err := c.rt.hooks().Run(ctx, k, c.spec.Hooks[k], state); err != nil {
			return err
		}
	}
	return nil
}

// startHooks runs the hooks of a container that has been started; their
// failures are logged.
func (c *Container) startHooks(ctx context.Context) {
	c.logged(ctx, hooks.Poststart, c.state("running", c.init.PID()))
}

// stopHooks runs, once, the hooks of a container that has ended; their failures
// are logged.
func (c *Container) stopHooks(ctx context.Context) {
	c.mu.Lock()
	again := c.stopped
	c.stopped = true
	c.mu.Unlock()
	if !again {
		c.logged(ctx, hooks.Poststop, c.state("stopped", 0))
	}
}

func (c *Container) logged(ctx context.Context, k hooks.Kind, state hooks.State) {
	c.rt.hooks().RunAll(ctx, k, c.spec.Hooks[k], state, func(err error) {
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
