// Package sandbox runs a pod: one virtual machine with an agent in it, and the
// containers inside.
//
// Life cycle: New claims the sandbox's folder, starts the vsock device, the
// file share and the VMM, waits for the agent's readiness and sets the guest
// up. CreateContainer, Container.Start, Container.Exec and Process.Start run
// processes; Done closes when the VM, the file server or the agent is gone, and
// then every process counts as exited with 137. Stop releases everything, in
// reverse order of acquisition; Cleanup does the same from state on disk when
// the process that held the sandbox was killed.
//
// The package does not speak to containerd (host/shim) nor to a VMM
// (host/vmm); it owns what they both need.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/config"
	"kata/host/process"
	"kata/host/share"
	"kata/host/vmm"
	"kata/host/vsock"
)

// releaseTimeout bounds what a failed New spends on releasing what it acquired.
const releaseTimeout = 15 * time.Second

// Options say what sandbox to run and where.
type Options struct {
	// ID is the id of the pod's first container, and the name of the sandbox.
	ID string
	// Namespace is the containerd namespace, for humans and the state on disk.
	Namespace string
	// Bundle is the bundle of the first container, absolute.
	Bundle string
	// StateRoot is the folder that holds a folder for each sandbox, as /run/kata.
	StateRoot string
	Config    *config.Config
	// Spec is the first container's; hostname and resolver come from it.
	Spec    *specs.Spec
	Spawner *process.Spawner
	// OOM is told each time a process of a container was killed for want of
	// memory, before the exit that follows from it is known; nil for nobody.
	OOM func(containerID string)
	Log *slog.Logger
}

// Sandbox is a running pod VM.
type Sandbox struct {
	id    string
	cfg   *config.Config
	log   *slog.Logger
	store *store
	undo  undo

	machine vmm.Machine
	device  *vsock.Device
	// deviceFailed receives at most once: why the vsock device gave the VM up.
	deviceFailed chan error
	daemon       *share.Daemon
	tree         *share.Tree
	agent        *agentConn
	oom          *oomEvents

	done chan struct{} // closed once failure is set, or at Stop

	stop    sync.Once
	stopErr error // written under stop

	// mu guards what follows and is held across no blocking call.
	mu         sync.Mutex
	failure    error
	finished   bool
	containers map[string]*Container
}

// New boots the sandbox and returns once its agent has answered and the guest
// is set up. ctx and the configured boot deadline both end the attempt; on any
// failure everything acquired is released before New returns.
func New(ctx context.Context, o Options) (*Sandbox, error) {
	store, err := claimOrReclaim(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		id: o.ID, cfg: o.Config, log: o.Log.With("sandbox", o.ID), store: store,
		done: make(chan struct{}), deviceFailed: make(chan error, 1), containers: make(map[string]*Container),
		oom: newOOMEvents(),
	}
	s.undo.push("state folder", func(context.Context) error { return os.RemoveAll(store.dir) })
	if err := s.boot(ctx, o); err != nil {
		s.finish(err)
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		return nil, errors.Join(err, s.undo.run(cleanup))
	}
	if o.OOM != nil {
		s.watchOOM(o.OOM)
	}
	go s.watch()
	return s, nil
}

// claimOrReclaim claims the sandbox's folder; what a crashed predecessor of the
// same bundle left there is cleaned up first.
func claimOrReclaim(ctx context.Context, o Options) (*store, error) {
	self, err := process.Identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("identify the shim's process: %w", err)
	}
	state := State{ID: o.ID, Namespace: o.Namespace, Bundle: o.Bundle, Shim: self}
	store, err := claim(o.StateRoot, state)
	if !errors.Is(err, fs.ErrExist) {
		return store, err
	}
	if err := Cleanup(ctx, CleanupOptions{StateRoot: o.StateRoot, ID: o.ID, Bundle: o.Bundle, Log: o.Log}); err != nil {
		return nil, err
	}
	return claim(o.StateRoot, state)
}

// ID returns the sandbox's name.
func (s *Sandbox) ID() string { return s.id }

// Dir returns the folder of the sandbox's sockets and state.
func (s *Sandbox) Dir() string { return s.store.dir }

// Done is closed when the VM, the file server or the agent is gone, or the
// sandbox was stopped.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Err tells why Done is closed; nil before, and after an orderly Stop.
func (s *Sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// finish marks the sandbox as gone and reports whether it was not before; the
// first reason given stays.
func (s *Sandbox) finish(reason error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return false
	}
	s.finished, s.failure = true, reason
	close(s.done)
	return true
}

// Stop destroys the containers, the guest and the VM and releases what the
// sandbox holds. ctx bounds the orderly part; when it ends the VMM is killed.
// A second call waits for the first and returns its error.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.stop.Do(func() {
		if s.finish(nil) {
			s.agent.destroy(ctx, s.log)
		}
		s.stopErr = s.undo.run(ctx)
	})
	return s.stopErr
}

// watch turns the end of any part of the sandbox into the end of the sandbox:
// what is left of the VM is stopped at once, so that nothing in it hangs on a
// part that no longer answers.
func (s *Sandbox) watch() {
	var reason error
	select {
	case <-s.done:
		return
	case reason = <-s.watchHealth():
	case reason = <-s.deviceFailed:
	case <-s.machine.Done():
		reason = errors.New("the virtual machine ended")
	case <-s.daemon.Done():
		reason = fmt.Errorf("file server of the sandbox ended: %w", s.daemon.Err())
	case <-s.agent.lost():
		reason = s.agentLost()
	}
	if !s.finish(s.withDeath(reason)) {
		return
	}
	s.log.Error("sandbox died", "error", reason)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no grace: there is nobody left to stop in order
	if err := s.machine.Stop(ctx); err != nil {
		s.log.Error("stop the virtual machine", "error", err)
	}
}

// agentLost waits a moment for the VMM's own word: a VM that dies takes the
// agent's connection down first, and says more about why.
func (s *Sandbox) agentLost() error {
	select {
	case <-s.machine.Done():
		return errors.New("the virtual machine ended")
	case err := <-s.deviceFailed:
		return err
	case <-time.After(500 * time.Millisecond):
		return errors.New("the agent closed its connection")
	}
}

// withDeath adds what the machine says about its end, or else what the guest
// last wrote on its console, to the reason for a failure.
func (s *Sandbox) withDeath(reason error) error {
	select {
	case <-s.machine.Done():
		if death := s.machine.Err(); death != nil {
			return fmt.Errorf("%w: %w", reason, death)
		}
	default:
	}
	if tail := strings.TrimSpace(s.machine.ConsoleTail()); tail != "" {
		return fmt.Errorf("%w; the console's last lines: %s", reason, tail)
	}
	return fmt.Errorf("%w; the console is empty", reason)
}
