package sandbox

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/hook"
	"kata/host/journal"
	"kata/host/undo"
)

// hooks are a container's hooks that run on the host, at runc's moments: prestart
// and createRuntime when its namespaces are there and it is not yet in the guest,
// poststart when its process runs, poststop when nothing is left of it.
type hooks struct {
	runner hook.Runner
	spec   specs.Hooks
	state  specs.State
}

// holdHooks notes the container's hooks, before anything of it is acquired: what
// comes first on the stack is released last.
func (c *Container) holdHooks(spec *specs.Spec) (undo.Held, error) {
	c.hooks.runner = c.sandbox.hooks
	c.hooks.state = specs.State{Version: specs.Version, ID: c.id, Bundle: c.bundle, Annotations: spec.Annotations}
	if spec.Hooks == nil {
		return undo.Held{}, nil
	}
	if err := hook.Check(spec.Hooks); err != nil {
		return undo.Held{}, err
	}
	c.hooks.spec = *spec.Hooks
	// With no hooks yet: one that was not created is not stopped either.
	held, err := c.undo.Hold(journal.Poststop{State: c.hooks.in(specs.StateStopped, 0)}, undo.Last)
	if err != nil {
		return held, err
	}
	c.undo.Push("the poststop hooks", undo.Last, func(ctx context.Context) error {
		if !c.hooked {
			return nil
		}
		ctx, cancel := undo.Grace(ctx)
		defer cancel()
		state := c.hooks.in(specs.StateStopped, 0)
		if err := c.hooks.runner.RunAll(ctx, hook.Poststop, c.hooks.spec.Poststop, state); err != nil {
			c.sandbox.log.Warn("poststop", "container", c.id, "error", err)
		}
		c.hooked = false
		return held.Amend(journal.Poststop{State: state})
	})
	return held, nil
}

// in is the container's state in a status, with the pid that stands for it.
func (h *hooks) in(status specs.ContainerState, pid int) specs.State {
	state := h.state
	state.Status, state.Pid = status, pid
	return state
}

// createdHooks runs what is to run when the container's namespaces are there.
func (c *Container) createdHooks(ctx context.Context, held undo.Held) error {
	h := &c.hooks
	//lint:ignore SA1019 prestart hooks are deprecated, not gone
	prestart := h.spec.Prestart
	if len(prestart)+len(h.spec.CreateRuntime)+len(h.spec.Poststop) == 0 {
		return nil
	}
	c.hooked = true
	if err := held.Amend(journal.Poststop{Hooks: h.spec.Poststop, State: h.in(specs.StateStopped, 0)}); err != nil {
		return err
	}
	state := h.in(specs.StateCreating, c.init.PID())
	if err := h.runner.Run(ctx, hook.Prestart, prestart, state); err != nil {
		return err
	}
	return h.runner.Run(ctx, hook.CreateRuntime, h.spec.CreateRuntime, state)
}

// startedHooks runs what is to run when the process does. The error of a hook ends
// the container.
func (c *Container) startedHooks(ctx context.Context) error {
	if len(c.hooks.spec.Poststart) == 0 {
		return nil
	}
	// A hook has the time that its spec gives it, not the caller's.
	alive, stop := c.sandbox.whileAlive(context.WithoutCancel(ctx))
	defer stop()
	err := c.hooks.runner.Run(alive, hook.Poststart, c.hooks.spec.Poststart, c.hooks.in(specs.StateRunning, c.init.PID()))
	if err == nil {
		return nil
	}
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), hostKillTimeout)
	defer cancel()
	if killErr := c.init.Signal(kill, sigkill); killErr != nil {
		c.sandbox.log.Debug("kill a container whose hook has failed", "container", c.id, "error", killErr)
	}
	return fmt.Errorf("start container %s: %w", c.id, err)
}
