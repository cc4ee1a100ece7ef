package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/untrusted"
)

// stderrTail is how many bytes of a child's stderr are kept for its error.
const stderrTail = 4 << 10

// drainDelay bounds the wait for output of a child that has ended but whose
// stderr some descendant holds open: one that left the group. Those in it are
// killed, and have let go of everything when they let go of stderr.
const drainDelay = 500 * time.Millisecond

// Child is a running helper process. All methods may be called concurrently.
type Child struct {
	id     ID
	name   string
	stderr *Tail
	done   chan struct{}
	err    error // set before done closes
}

// Launch starts cmd, whose Stderr must be nil: its last lines are kept. When
// the child ends, whatever is left of its process group is killed, and it is
// reaped. Descriptors that the caller hands down in cmd.ExtraFiles remain the
// caller's to close.
func (s *Spawner) Launch(cmd *exec.Cmd) (*Child, error) {
	return s.launch(cmd, s.Start, func(int) error { return nil })
}

// launch starts cmd, and lets limit bound its process before anybody knows it.
func (s *Spawner) launch(cmd *exec.Cmd, start func(*exec.Cmd) error, limit func(pid int) error) (*Child, error) {
	c := &Child{name: cmd.Path, stderr: NewTail(stderrTail), done: make(chan struct{})}
	cmd.Stderr = c.stderr
	cmd.WaitDelay = drainDelay
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	id, err := Identify(cmd.Process.Pid)
	var fd *pidfd
	if err == nil {
		fd, err = openPidfd(id)
	}
	if err == nil {
		if err = limit(id.PID); err != nil {
			fd.Close()
		}
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	c.id = id
	go c.reap(cmd, fd)
	return c, nil
}

// ID returns the identity of the child.
func (c *Child) ID() ID { return c.id }

// Done is closed when the child has ended and is reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says, after Done, how the child ended and what it last wrote to stderr.
// It is nil when the child ended with status 0.
func (c *Child) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Stderr returns the last lines the child wrote to stderr.
func (c *Child) Stderr() string { return c.stderr.String() }

// Kill ends the child and its process group with SIGKILL and returns when it
// is reaped, or with ctx's error.
func (c *Child) Kill(ctx context.Context) error {
	if err := c.id.Kill(ctx); err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	return c.Wait(ctx)
}

// Abort sends SIGKILL to the child and does not wait; Done follows.
func (c *Child) Abort() {
	fd, err := openPidfd(c.id)
	if err != nil {
		return // gone
	}
	defer fd.Close()
	_ = fd.signal(unix.SIGKILL)
}

// Wait returns nil when the child has ended, or ctx's error.
func (c *Child) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s (pid %d): %w", c.name, c.id.PID, context.Cause(ctx))
	}
}

func (c *Child) reap(cmd *exec.Cmd, fd *pidfd) {
	_ = fd.wait(context.Background())
	fd.Close()
	// The zombie still holds the group's number, so it can mean no other group.
	_ = syscall.Kill(-c.id.PID, syscall.SIGKILL)
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // ended with 0, output held open by another
	}
	c.err = describe(c.name, err, c.stderr.String())
	close(c.done)
}

// describe joins how a process ended with what it said.
func describe(name string, err error, stderr string) error {
	if err == nil {
		return nil
	}
	if stderr = untrusted.Line(stderr, untrusted.MaxLine); stderr != "" {
		return fmt.Errorf("%s: %w: %s", name, err, stderr)
	}
	return fmt.Errorf("%s: %w", name, err)
}
