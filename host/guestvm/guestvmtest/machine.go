package guestvmtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/vmm"
)

// Machine is a fake of a virtual machine. Its guest is a function of this process,
// which runs from Start until the machine ends. Its steps are "machine.start" and
// "machine.stop".
type Machine struct {
	faults *Faults
	run    func(ctx context.Context)
	hangUp func() // what the machine's end does to its devices
	// Processes are what Pids returns while it runs; it ends with any of them.
	Processes []process.ID

	mu      sync.Mutex
	started bool
	stopped bool
	ended   bool
	err     error
	cancel  context.CancelFunc
	guest   sync.WaitGroup
	done    chan struct{}
	console string
}

// NewMachine returns a machine that has not been started.
func NewMachine(f *Faults, guest func(ctx context.Context), hangUp func()) *Machine {
	return &Machine{faults: f, run: guest, hangUp: hangUp, done: make(chan struct{})}
}

// Start implements guestvm.Machine.
func (m *Machine) Start(ctx context.Context) error {
	if err := m.faults.at(ctx, "machine.start"); err != nil {
		m.end(err)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case m.started:
		return errors.New("the machine was started before")
	case m.stopped:
		return errors.New("the machine was stopped before")
	}
	m.started = true
	guest, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.guest.Go(func() { m.run(guest) })
	for _, id := range m.Processes {
		go func() { // ends with the machine
			if id.Wait(guest) == nil {
				m.end(fmt.Errorf("process %s was killed", id))
			}
		}()
	}
	return nil
}

// Stop implements guestvm.Machine.
func (m *Machine) Stop(ctx context.Context) error {
	if err := m.faults.at(ctx, "machine.stop"); err != nil {
		return err
	}
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	m.end(nil)
	return nil
}

// Die ends the machine by itself.
func (m *Machine) Die(err error) { m.end(err) }

func (m *Machine) end(err error) {
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		<-m.done
		return
	}
	m.ended, m.err = true, err
	cancel := m.cancel
	m.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	m.hangUp()
	m.guest.Wait()
	close(m.done)
}

// Say writes on the console.
func (m *Machine) Say(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.console += text
}

// Done implements guestvm.Machine.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements guestvm.Machine.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.err
	default:
		return nil
	}
}

// Pids implements guestvm.Machine.
func (m *Machine) Pids() []process.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.started || m.ended {
		return nil
	}
	return m.Processes
}

// ConsoleTail implements guestvm.Machine.
func (m *Machine) ConsoleTail() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console
}

// Parts makes fakes and keeps them for the test to look at. Its steps are
// "accelerator", "link", "files", "serve" and "machine", and those of what it
// makes.
type Parts struct {
	Faults *Faults
	// Guest is what runs in the machine; nil for an [Agent].
	Guest func(ctx context.Context, g Guest)
	// Processes are those of the machine.
	Processes []process.ID

	// What was made, nil before.
	Vsock      *Link
	Tree       *Files
	FileServer *Server
	VMM        *Machine
	Agent      *Agent
	// Spec is what the machine was asked to be.
	Spec vmm.Spec
}

// NewParts returns parts without faults.
func NewParts() *Parts { return &Parts{Faults: new(Faults)} }

// Accelerator implements guestvm.Parts.
func (p *Parts) Accelerator(ctx context.Context, _ string) (string, string, error) {
	return vmm.AccelTCG, "it is a fake", p.Faults.at(ctx, "accelerator")
}

// Link implements guestvm.Parts.
func (p *Parts) Link(string) (guestvm.Link, error) {
	if err := p.Faults.at(context.Background(), "link"); err != nil {
		return nil, err
	}
	p.Vsock = NewLink(p.Faults)
	return p.Vsock, nil
}

// Files implements guestvm.Parts.
func (p *Parts) Files(dir string) (guestvm.Files, error) {
	if err := p.Faults.at(context.Background(), "files"); err != nil {
		return nil, err
	}
	p.Tree = NewFiles(dir, p.Faults)
	return p.Tree, nil
}

// Serve implements guestvm.Parts.
func (p *Parts) Serve(ctx context.Context, _ guestvm.Files, _ string) (guestvm.Server, error) {
	if err := p.Faults.at(ctx, "serve"); err != nil {
		return nil, err
	}
	p.FileServer = NewServer(p.Faults)
	return p.FileServer, nil
}

// Machine implements guestvm.Parts.
func (p *Parts) Machine(spec vmm.Spec) (guestvm.Machine, error) {
	if err := p.Faults.at(context.Background(), "machine"); err != nil {
		return nil, err
	}
	p.Spec = spec
	guest := p.Guest
	if guest == nil {
		p.Agent = NewAgent(p.Faults)
		guest = p.Agent.Run
	}
	link := p.Vsock
	p.VMM = NewMachine(p.Faults, func(ctx context.Context) { guest(ctx, link.Guest()) }, link.HangUp)
	p.VMM.Processes = p.Processes
	return p.VMM, nil
}
