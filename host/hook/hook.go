// Package hook runs the hooks of an OCI spec that belong to the host: prestart,
// createRuntime, poststart and poststop (runtime-spec, config.md, "POSIX-platform
// Hooks"). CNI plugins of nerdctl, Docker's networks and whatever else has to be
// told of a container are started by them.
//
// It runs them; when, and what follows from an error, is the caller's affair. The
// hooks of the container's namespaces, createContainer and startContainer, are
// the guest's.
//
// A hook runs as runc runs it: one after the other, in the runtime's namespaces
// (which for a shim with a mount namespace of its own are those of the daemon
// that started it), with the bundle as its working directory, exactly the
// environment that it names, and the container's state in JSON on its standard
// input. The end of its time, or of the caller's context, kills it and what is
// left in its process group; its own end leaves what it has started alone.
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/lib/thread"
)

const (
	// maxTail is how much of the end of what a hook wrote is told when it fails.
	maxTail = 1 << 10
	// outputDelay bounds the wait for the output of a hook that has ended, which
	// a process that it has left behind may hold open.
	outputDelay = 500 * time.Millisecond
)

// Kind is the moment of a hook, by its name in the spec.
type Kind string

// The kinds that run on the host.
const (
	Prestart      Kind = "prestart"
	CreateRuntime Kind = "createRuntime"
	Poststart     Kind = "poststart"
	Poststop      Kind = "poststop"
)

// Check says which hook of a spec cannot be run, of any kind: a path that is not
// absolute, or a time-out that is not above zero.
func Check(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for _, row := range []struct {
		kind  string
		hooks []specs.Hook
	}{
		//lint:ignore SA1019 prestart hooks are deprecated, not gone
		{"prestart", h.Prestart}, {"createRuntime", h.CreateRuntime}, {"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer}, {"poststart", h.Poststart}, {"poststop", h.Poststop},
	} {
		for i, hook := range row.hooks {
			switch {
			case !path.IsAbs(hook.Path):
				return fmt.Errorf("spec: hooks.%s[%d].path %q is not absolute", row.kind, i, hook.Path)
			case hook.Timeout != nil && *hook.Timeout <= 0:
				return fmt.Errorf("spec: hooks.%s[%d].timeout %d is not above 0", row.kind, i, *hook.Timeout)
			}
		}
	}
	return nil
}

// Runner runs hooks.
type Runner struct {
	// Mounts is the mount namespace in which hooks run; nil for this process's.
	Mounts *os.File
}

// Run runs the hooks in order up to the first that fails, whose error it returns:
// it names the hook and has the end of what it wrote.
func (r Runner) Run(ctx context.Context, kind Kind, hooks []specs.Hook, state specs.State) error {
	for _, h := range hooks {
		if err := r.run(ctx, h, state); err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

// RunAll runs all hooks, whatever becomes of one, and returns their errors joined.
func (r Runner) RunAll(ctx context.Context, kind Kind, hooks []specs.Hook, state specs.State) error {
	var errs []error
	for _, h := range hooks {
		errs = append(errs, r.Run(ctx, kind, []specs.Hook{h}, state))
	}
	return errors.Join(errs...)
}

func (r Runner) run(ctx context.Context, h specs.Hook, state specs.State) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	if h.Timeout != nil {
		limit := time.Duration(*h.Timeout) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %s and was killed", limit))
		defer cancel()
	}
	output := process.NewTail(maxTail)
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // not nil, which would be this process's
	cmd.Dir = state.Bundle
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	thread.Spend(func() { err = r.enterAndRun(cmd) })
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if said := strings.TrimSpace(output.String()); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// enterAndRun runs the command in the mount namespace, from a thread that is of no
// use for anything else then. It is there until the command has ended, since the
// parent-death signal is that of the thread.
func (r Runner) enterAndRun(cmd *exec.Cmd) error {
	if r.Mounts != nil {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(r.Mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace of the runtime: %w", os.NewSyscallError("setns", err))
		}
	}
	return cmd.Run()
}
