package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/host/untrusted"
	"kata/host/vmm/qemu/qmp"
)

// Stop implements [vmm.Machine]: QMP's quit, and SIGKILL at ctx's deadline, or
// after five seconds when it has none.
func (m *Machine) Stop(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultStop)
		defer cancel()
	}
	m.mu.Lock()
	if !m.stopped {
		m.stopped = true
		close(m.stop) // interrupts a Start
		if !m.started {
			close(m.done)
		}
	}
	child, control := m.child, m.control
	m.mu.Unlock()

	if control != nil {
		// An error means that QEMU is going or hangs; the wait tells.
		if err := control.Execute(ctx, "quit", nil, nil); err != nil {
			m.log.Debug("ask QEMU to quit", "error", err)
		}
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
	}
	return m.kill(context.WithoutCancel(ctx), child)
}

// kill ends QEMU the hard way and waits for the machine's end.
func (m *Machine) kill(ctx context.Context, child *process.Child) error {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	if child != nil {
		m.log.Warn("QEMU did not quit in time and is killed", "pid", child.ID().PID)
		if err := child.Kill(ctx); err != nil {
			return fmt.Errorf("stop machine %s: %w", m.spec.ID, err)
		}
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop machine %s: %w", m.spec.ID, ctx.Err())
	}
}

// Done implements [vmm.Machine].
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements [vmm.Machine].
func (m *Machine) Err() error {
	select {
	case <-m.done:
	default:
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Pids implements [vmm.Machine]: QEMU is one process.
func (m *Machine) Pids() []process.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.child == nil {
		return nil
	}
	return []process.ID{m.child.ID()}
}

// ConsoleTail implements [vmm.Machine]. Control characters, which are the
// guest's, are left out.
func (m *Machine) ConsoleTail() string { return untrusted.Lines(m.tail.String()) }

// Check implements [vmm.Checker].
func (m *Machine) Check(ctx context.Context) error {
	m.mu.Lock()
	control := m.control
	m.mu.Unlock()
	if control == nil {
		return fmt.Errorf("check machine %s: it does not run", m.spec.ID)
	}
	status, err := queryStatus(ctx, control)
	if err == nil && status != statusRunning {
		err = fmt.Errorf("its status is %q", status)
	}
	if err != nil {
		return fmt.Errorf("check machine %s: %w", m.spec.ID, err)
	}
	return nil
}

// From QEMU's qapi/run-state.json, RunState.
const statusRunning = "running"

// isFatal reports whether a guest in this state never runs again.
func isFatal(status string) bool {
	switch status {
	case "internal-error", "io-error", "guest-panicked", "shutdown", "watchdog":
		return true
	}
	return false
}

func queryStatus(ctx context.Context, control *qmp.Client) (string, error) {
	var reply struct {
		Status string `json:"status"`
	}
	err := control.Execute(ctx, "query-status", nil, &reply)
	return reply.Status, err
}

// socketPair returns two connected ends: ours, and a file for the child, which
// the caller closes once the child has it.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the %s channel: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours) // duplicates
	err = errors.Join(err, ours.Close())
	if unixConn, ok := conn.(*net.UnixConn); ok && err == nil {
		return unixConn, theirs, nil
	}
	theirs.Close()
	if conn != nil {
		conn.Close()
	}
	return nil, nil, fmt.Errorf("make the %s channel: %w", name, err)
}
