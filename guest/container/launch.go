package container

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/container/apply"
	"kata/guest/container/cpulist"
	"kata/lib/fmt"
)

// launch lets a stage that is ready, and is not in the container's cgroup, execute
// its command, and puts the process into the cgroup when it has one thread and
// nothing of the stage any more: before the command's first instruction. What the
// stage needs to get there does not count against the container's limits, which
// may be reached, and is not slowed down by them: its threads, its memory, the time
// that its threads take to end. The kernel applies limits to forks, not to moves
// (cgroup-v2.rst, "PID").
//
// The stage is traced for that (ptrace(2), PTRACE_EVENT_EXEC). Where that is not
// allowed it is moved before it executes.
func (c *Container) launch(ctx context.Context, p *Process) error {
	t := &tracer{process: p, enter: func() error { return c.enter(p) }, ready: make(chan error), end: make(chan struct{}), entered: make(chan error, 1)}
	go t.run()
	if err := <-t.ready; err != nil {
		if err := c.enter(p); err != nil {
			return err
		}
		return p.awaitExec(ctx)
	}
	if err := p.awaitExec(ctx); err != nil {
		close(t.end)
		<-t.entered
		return err
	}
	return <-t.entered
}

// adopt moves a stage out of its container's cgroup into the agent's.
func (r *Runtime) adopt(p *Process) error {
	return os.WriteFile(r.config.Home+"/cgroup.procs", strconv.AppendInt(nil, int64(p.PID()), 10), 0)
}

// enter puts a process of the container's into its cgroup.
func (c *Container) enter(p *Process) error {
	if err := c.group.Add(p.PID(), c.init.PID()); err != nil {
		return err
	}
	// Whoever kills all of the container from here on kills the process as well;
	// what came before was too early for it.
	if p != c.init && c.Status() == Stopped {
		return ErrNotRunning
	}
	if p.affinity != nil { // the move has set it to the container's
		return c.setAffinity(p, p.affinity)
	}
	return nil
}

// setAffinity keeps a process on processors, as far as the container has them.
func (c *Container) setAffinity(p *Process, set *cpulist.Set) error {
	have, err := c.group.CPUs()
	if err != nil {
		return err
	}
	return apply.Affinity(p.PID(), set, have)
}

// tracer waits for a process to execute a program.
type tracer struct {
	process *Process
	enter   func() error  // is called while the process stands still
	ready   chan error    // whether the process is traced
	end     chan struct{} // is closed to give up
	entered chan error    // how it ended
}

// run traces the process; only the thread that began it can go on with it.
func (t *tracer) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid := t.process.PID()
	stops := t.process.process.Stops()
	err := ptrace(unix.PTRACE_SEIZE, pid, unix.PTRACE_O_TRACEEXEC)
	t.ready <- err
	if err != nil {
		return
	}
	const executed = int(unix.SIGTRAP) | unix.PTRACE_EVENT_EXEC<<8
	for {
		select {
		case stop := <-stops:
			if stop == executed {
				err := t.enter()
				if errors.Is(err, unix.ESRCH) {
					err = nil // it has been killed
				}
				if err != nil {
					_ = t.process.Signal(unix.SIGKILL) // ErrNotRunning is as good
				}
				_ = ptrace(unix.PTRACE_DETACH, pid, 0) // fails only if it was killed meanwhile
				t.entered <- err
				return
			}
			signal := uintptr(stop)
			if stop>>8 != 0 {
				signal = 0
			}
			_ = ptrace(unix.PTRACE_CONT, pid, signal) // the same
		case <-t.process.Done():
			t.entered <- nil
			return
		case <-t.end:
			_ = t.process.Signal(unix.SIGKILL) // which needs no tracer; so has it ended
			t.entered <- nil
			return
		}
	}
}

func ptrace(request, pid int, data uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0)
	if errno != 0 {
		return fmt.Errorf("trace process %d: %w", pid, errno)
	}
	return nil
}
