// Package rawvm runs QEMU with arguments that no description of a machine has
// (vmm.Spec), for tests of what lies below: buses, bridges, a monitor of their own.
// A [Machine] is a part of a guest that host/guestvm boots.
package rawvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vsock"
)

// Machine is a QEMU whose console is its standard output (-serial stdio).
type Machine struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	started bool
	stopped bool
	err     error
	console strings.Builder
}

// New prepares a machine with these arguments.
func New(args []string) *Machine {
	m := &Machine{cmd: exec.Command("qemu-system-x86_64", args...), done: make(chan struct{})}
	m.cmd.Stdout, m.cmd.Stderr = writer{m}, writer{m}
	// It dies with the test.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return m
}

// writer collects what the machine says.
type writer struct{ m *Machine }

func (w writer) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.console.Write(p)
}

// Start implements guestvm.Machine.
func (m *Machine) Start(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || m.stopped {
		return errors.New("a machine starts once")
	}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.started = true
	go func() {
		err := m.cmd.Wait()
		m.mu.Lock()
		if m.err = err; err == nil {
			m.err = errors.New("it has ended by itself")
		}
		if m.stopped {
			m.err = nil
		}
		m.mu.Unlock()
		close(m.done)
	}()
	return nil
}

// Stop implements guestvm.Machine, by SIGKILL.
func (m *Machine) Stop(context.Context) error {
	m.mu.Lock()
	if !m.started && !m.stopped {
		close(m.done)
	}
	m.stopped = true
	started := m.started
	m.mu.Unlock()
	if started {
		m.Signal(syscall.SIGKILL)
	}
	<-m.done
	return nil
}

// Signal sends a signal to QEMU, if it runs.
func (m *Machine) Signal(s os.Signal) { _ = m.cmd.Process.Signal(s) }

// Done implements guestvm.Machine.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements guestvm.Machine.
func (m *Machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Pids implements guestvm.Machine.
func (m *Machine) Pids() []process.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.started {
		return nil
	}
	id, err := process.Identify(m.cmd.Process.Pid)
	if err != nil {
		return nil
	}
	return []process.ID{id}
}

// ConsoleTail implements guestvm.Machine: what the guest and QEMU have said last.
func (m *Machine) ConsoleTail() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	const most = 4000
	text := m.console.String()
	return text[max(0, len(text)-most):]
}

// Parts makes a guest of a machine with arguments of its own and the vsock device
// of this process.
type Parts struct {
	*guestvm.Host
	// Args completes the arguments by those for the vsock device's socket.
	Args func(spec vmm.Spec) []string
	// Listen, if set, gets the device before the machine is started.
	Listen func(vsock.Dialer)

	Device *vsock.Device
	// Ran receives what the device's Run returned.
	Ran  chan error
	QEMU *Machine
}

// Accelerator implements guestvm.Parts: these tests are the same everywhere.
func (p *Parts) Accelerator(context.Context, string) (name, reason string, err error) {
	return vmm.AccelTCG, "for tests", nil
}

// Link implements guestvm.Parts.
func (p *Parts) Link(socket string) (guestvm.Link, error) {
	device, err := vsock.New(vsock.Config{Socket: socket, GuestCID: api.GuestCID, Log: p.Log})
	if err != nil {
		return nil, err
	}
	p.Device, p.Ran = device, make(chan error, 1)
	if p.Listen != nil {
		p.Listen(device)
	}
	return &link{device, socket, p.Ran}, nil
}

// link is the device, whose end can be asked for.
type link struct {
	*vsock.Device
	socket string
	ran    chan<- error
}

func (l *link) Attach(spec *vmm.Spec) { spec.Vsock = &vmm.Vsock{Socket: l.socket} }

func (l *link) Run(ctx context.Context) error {
	err := l.Device.Run(ctx)
	l.ran <- err
	return err
}

// Machine implements guestvm.Parts.
func (p *Parts) Machine(spec vmm.Spec) (guestvm.Machine, error) {
	p.QEMU = New(p.Args(spec))
	return p.QEMU, nil
}
