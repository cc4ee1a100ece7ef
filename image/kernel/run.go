package kernel

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a program to be run.
type command struct {
	args           []string
	dir            string
	env            []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// stopGrace is how long make has to remove half-written files when stopped.
const stopGrace = 5 * time.Second

// run runs a program in a process group of its own, and ends the whole group
// when ctx ends: first by SIGTERM, on which make cleans up, then by SIGKILL.
// Should this process be killed, make gets the SIGTERM from the kernel.
func run(ctx context.Context, c command) error {
	runtime.LockOSThread() // Pdeathsig is about the thread that forks
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = c.dir, c.env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", c.args[0], err)
	}
	err := cmd.Wait()
	if err != nil {
		// ESRCH when the group is empty, as it should be.
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.args[0], err)
	}
	return nil
}
