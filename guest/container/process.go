package container

import (
	"context"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/container/cpulist"
	"kata/guest/container/plan"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// Process is a process of a container: its init or an exec.
type Process struct {
	process *reaper.Process
	stage   *stageConn
	console *os.File
	ready   bool // the stage said so
	// affinity are the processors that it shall run on, nil for all of the
	// container's.
	affinity *cpulist.Set
	// hooks runs those that the runtime runs, when the stage says so.
	hooks func() error
}

// PID is the process ID in the agent's pid namespace.
func (p *Process) PID() int { return p.process.PID() }

// Done is closed when the process has ended. Output that it wrote may still be
// unread, and processes that it left may hold its streams.
func (p *Process) Done() <-chan struct{} { return p.process.Done() }

// Exit is how the process ended, once Done is closed.
func (p *Process) Exit() reaper.Exit { return p.process.Exit() }

// Console is the master end of the process's terminal, or nil. It is the
// caller's, who closes it; until then Resize works. Reading gives EIO when
// nobody has the terminal open any more.
func (p *Process) Console() *os.File { return p.console }

// Signal sends a signal to the process alone, just as asked. The error is
// ErrNotRunning if it has ended.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.process.Signal(sig)
	if err == reaper.ErrEnded || err == unix.ESRCH {
		return ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

// Resize sets the size of the terminal, in characters.
func (p *Process) Resize(width, height uint32) error {
	if p.console == nil {
		return errors.New("the process has no terminal")
	}
	const most = 1<<16 - 1
	if width > most || height > most {
		return fmt.Errorf("a terminal of %d by %d characters is not possible", width, height)
	}
	raw, err := p.console.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	})
	return errors.Join(err, ioctlErr)
}

// awaitReady returns when the stage has done everything but the last step.
func (p *Process) awaitReady(ctx context.Context) (err error) {
	release := p.stage.until(ctx)
	defer func() {
		if cause := release(); cause != nil {
			err = cause
		}
	}()
	for !p.ready {
		if err := p.handle(); err != nil {
			return err
		}
	}
	return nil
}

// awaitExec lets the stage execute its command and returns when it has done so.
func (p *Process) awaitExec(ctx context.Context) (err error) {
	release := p.stage.until(ctx)
	defer func() {
		if cause := release(); cause != nil {
			err = cause
		}
	}()
	defer p.stage.close()
	if _, err := p.stage.file.Write([]byte{plan.Go}); err != nil {
		return p.stageFailed(err)
	}
	for {
		if err := p.handle(); err == errEnded {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// errEnded says that a stage which was ready has closed the connection: it has
// executed its command.
var errEnded = errors.New("the stage has ended")

// handle receives one message and acts on it.
func (p *Process) handle() error {
	m, err := p.stage.receive()
	if err != nil {
		return fmt.Errorf("talk to the stage: %w", err)
	}
	switch m.kind {
	case plan.Console:
		if p.console = m.file; m.file == nil {
			return errors.New("the stage sent no terminal")
		}
		return nil
	case plan.Hooks:
		if p.hooks == nil {
			return errors.New("the stage asks for hooks that there are not")
		}
		if err := p.hooks(); err != nil {
			return err
		}
		_, err := p.stage.file.Write([]byte{plan.Go})
		return err
	case plan.Ready:
		p.ready = true
		return nil
	case plan.Refused:
		return fault.New(fault.Invalid, m.text)
	case plan.Failed, plan.ExecFailed:
		return &StageError{Text: m.text, Command: m.kind == plan.ExecFailed}
	case 0:
		if p.ready {
			return errEnded
		}
		return p.died()
	}
	return fmt.Errorf("the stage sent a message of unknown kind %q", m.kind)
}

// stageFailed is the error for a stage that could not be written to: what it
// said itself, if it said something.
func (p *Process) stageFailed(err error) error {
	if !errors.Is(err, unix.EPIPE) {
		return err
	}
	for {
		if said := p.handle(); said != nil {
			return said
		}
	}
}

// died is the error for a stage that ended without a word. Its end has closed
// the connection, so its exit is about to be known.
func (p *Process) died() error {
	<-p.Done()
	status := p.Exit().Status
	how := "status " + strconv.Itoa(status)
	if status > 128 {
		how = "signal " + strconv.Itoa(status-128)
	}
	return fmt.Errorf("the process ended with %s while it was set up; is a limit too low?", how)
}

// abandon kills a process that was not executed and releases what there is of
// it. Its end may still be to come.
func (p *Process) abandon() {
	p.stage.close()
	_ = p.process.Signal(unix.SIGKILL) // ErrEnded is as good
	if p.console != nil {
		p.console.Close()
	}
}
