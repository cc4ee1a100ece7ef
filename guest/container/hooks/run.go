package hooks

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// maxTail is how much of the end of what a hook wrote is told when it fails.
const maxTail = 1 << 10

// Start calls fork, which starts a child that leads a process group of its own,
// and returns the child.
type Start func(fork func() (pid int, err error)) (Child, error)

// Child is a process that has been started.
type Child interface {
	// Kill sends SIGKILL to the process group, unless the child has ended.
	Kill()
	// Wait returns the status once the child has ended: the exit code, or 128
	// plus the number of a signal.
	Wait() (status int)
}

// Run runs hooks of one kind, one after the other. The end of ctx, or of a
// hook's time, kills the hook and those of its children that have stayed in
// its process group. The error names the hook that failed and has the end of
// what it wrote; it wraps the cause of ctx's end.
func (start Start) Run(ctx context.Context, k Kind, hooks []Hook, s State) error {
	for _, h := range hooks {
		if err := start.run(ctx, h, s); err != nil {
			return fmt.Errorf("%s hook %s: %w", k.String(), h.Path, err)
		}
	}
	return nil
}

// RunAll is Run for hooks whose failure stops nothing: it hands each error to
// failed. After the end of ctx nothing more is started.
func (start Start) RunAll(ctx context.Context, k Kind, hooks []Hook, s State, failed func(error)) {
	for _, h := range hooks {
		err := ctx.Err()
		if err == nil {
			err = start.run(ctx, h, s)
		}
		if err != nil {
			failed(fmt.Errorf("%s hook %s: %w", k.String(), h.Path, err))
		}
	}
}

func (start Start) run(ctx context.Context, h Hook, s State) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stdin, err := s.file()
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	defer unix.Close(stdin)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	if err := unix.SetNonblock(pipe[0], true); err != nil {
		unix.Close(pipe[1])
		return err
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	pidfd := -1
	child, err := start(func() (int, error) {
		return syscall.ForkExec(h.Path, args, &syscall.ProcAttr{
			Dir: "/", Env: h.Env, Files: []uintptr{uintptr(stdin), uintptr(pipe[1]), uintptr(pipe[1])},
			Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
	})
	unix.Close(pipe[1])
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	stop := context.AfterFunc(ctx, child.Kill)
	defer stop()
	out := output{fd: pipe[0]}
	late := out.collect(pidfd, h.Timeout, child.Kill)
	status := child.Wait()
	switch {
	case late:
		err = fmt.Errorf("it did not end within %s and was killed", h.Timeout)
	case status == 0:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case status > 128:
		err = errors.New("it was killed by signal " + strconv.Itoa(status-128))
	default:
		err = errors.New("exit status " + strconv.Itoa(status))
	}
	return out.describe(err)
}

// output is what comes out of a pipe.
type output struct {
	fd   int // -1 after its end
	tail []byte
}

// collect reads until the process of pidfd has ended, without waiting for
// others that have the pipe. When limit, unless it is 0, is over it calls kill
// and reports true.
//
// It blocks the calling thread and needs no other one: the last hooks of a
// container run under its own limits.
func (o *output) collect(pidfd int, limit time.Duration, kill func()) (late bool) {
	deadline := time.Now().Add(limit)
	for {
		wait := -1
		if limit > 0 && !late {
			const most = time.Hour // poll(2) takes an int of milliseconds
			wait = int(min(max(0, time.Until(deadline)), most).Milliseconds()) + 1
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(o.fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, wait)
		if err != nil && err != unix.EINTR {
			kill() // nobody would see its end
			return late
		}
		o.read()
		if fds[0].Revents != 0 {
			return late
		}
		if limit > 0 && !late && time.Now().After(deadline) {
			late = true
			kill()
		}
	}
}

// read takes what is there, as much as a pipe holds at most.
func (o *output) read() {
	const size, pipe = 4 << 10, 64 << 10
	buf := make([]byte, size)
	for range pipe / size {
		if o.fd < 0 {
			return
		}
		n, err := unix.Read(o.fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil || n == 0:
			o.fd = -1
			return
		}
		o.tail = append(o.tail, buf[:n]...)
		o.tail = o.tail[max(0, len(o.tail)-maxTail):]
	}
}

// describe adds what a hook last wrote to the reason for its failure.
func (o *output) describe(err error) error {
	if text := strings.TrimSpace(strings.ToValidUTF8(string(o.tail), "?")); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
