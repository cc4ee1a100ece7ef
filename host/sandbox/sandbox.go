// Package sandbox runs a pod: one virtual machine with an agent in it, and the
// containers inside.
//
// Life cycle: New claims the sandbox's folder, boots the guest (host/guestvm) and
// sets it up. CreateContainer, Container.Start, Container.Exec and Process.Start
// run processes; Done closes when the VM, the file server or the agent is gone, and
// then every process counts as exited with 137. Stop releases everything, last
// acquired first, and may be called again until it succeeds; Cleanup does the same
// from the journal on disk when the process that held the sandbox was killed.
//
// What the sandbox holds of the host is in its journal (host/journal) before it is
// acquired, and on a stack of steps (host/undo): one of the sandbox's, one of each
// container's. What the guest may use is not taken away before the container is
// out of the guest, or the VM is known to be dead.
//
// # Bounds
//
// The agent is in the guest and is not believed. What it may send, and the test of
// each bound:
//
//	what                      bound                                     test
//	an answer                 256 KiB, whatever its fields              TestAnAnswerOfTheAgentIsBounded
//	an error's code           ends nothing: only silence does           TestOnlySilenceIsIllHealth, TestAWaitThatIsRefusedIsRepeated
//	an error's text           one line, 4 KiB (host/untrusted)          task: TestAnErrorOfTheGuestIsOneLineThatEveryClientCanShow
//	ids in OOM events         those of containers that there are        TestALyingAgentTellsOfNoContainerThatThereIsNot
//	OOM events                64, then ten a second; 8 wait (event)     the same, event: TestNewsOfOOMKillsPushNothingOut
//	OOM events before an exit told within 5 s, or not waited for        TestAnExitWaitsForTheEventsBeforeIt
//	an exit status            a byte                                    TestAnExitStatusIsAByte
//	an exit's time            from its start until now                  TestAnExitIsNeitherInTheFutureNorBeforeTheStart
//	no exit after SIGKILL     Agent.KillTimeout, then no VM             TestAFirstProcessThatSurvivesSIGKILLEndsTheSandbox
//	output after the exit     8 MiB, 10 s and 1 s for each MiB (stdio)  stdio: TestATricklingAgentHoldsNoDrainUp and others
//	processes listed          32,768                                    task: TestPidsHasAnEntryForEachProcess
//	statistics                1,024 entries a list (host/shim/stats)    stats: TestStatisticsOfALyingGuestAreBounded
//	metrics, diagnostic data  are answers, and asked for by no shim     TestAnAnswerOfTheAgentIsBounded
//	the console               32 KiB in memory, 8 MiB on disk (qemu)    qemu: TestTheConsolesFilesTakeTurns
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
	"sync"
	"time"

	"kata/host/guestvm"
	"kata/host/hook"
	"kata/host/journal"
	"kata/host/pod"
	"kata/host/process"
	"kata/host/undo"
)

// releaseTimeout bounds what a failed New or CreateContainer spends on releasing
// what it acquired. What is not released by then stays, for the sandbox's Stop.
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
	// ConsoleRoot is the folder that holds a folder for the console's copy of each
	// sandbox, if it is to be kept: a disk, where StateRoot is memory. It is removed
	// with the sandbox. "" is the sandbox's folder below StateRoot.
	ConsoleRoot string
	// Pod is what the pod itself is to be, apart from its containers.
	Pod pod.Spec
	// Guest says what to boot. New sets ID, Dir and ConsoleFile of the machine,
	// and shares files.
	Guest guestvm.Config
	// Parts are what the guest is made of.
	Parts guestvm.Parts
	// Agent says how to work with the agent in it.
	Agent Agent
	// Spawner starts the processes that stand for containers.
	Spawner *process.Spawner
	// Hooks runs the hooks of containers that belong to the host.
	Hooks hook.Runner
	// OOM is told each time a process of a container was killed for want of
	// memory, before the exit that follows from it is known; nil for nobody.
	OOM func(containerID string)
	Log *slog.Logger
}

// Agent says how the shim and the agent in the guest work together.
type Agent struct {
	// BootTimeout bounds New: from the start of the VMM until the guest is set up.
	BootTimeout time.Duration
	// CreateTimeout bounds the agent's work on one CreateContainer request.
	CreateTimeout time.Duration
	// KillTimeout bounds the time from SIGKILL to a container's first process until
	// its exit is known. Then the whole sandbox is ended. 0 is no bound.
	KillTimeout time.Duration
	// HookPath is a folder of the guest with hooks for every container; "" is none.
	HookPath string
	// KernelModules are loaded in the guest before anything of the pod is made,
	// each with its parameters, as "dummy numdummies=2".
	KernelModules []string
	// DropSeccomp runs containers without their seccomp profiles.
	DropSeccomp bool
}

// Sandbox is a running pod VM.
type Sandbox struct {
	id      string
	cfg     Agent
	log     *slog.Logger
	journal *journal.Journal
	undo    *undo.Stack

	spawner *process.Spawner
	hooks   hook.Runner
	guest   *guestvm.VM
	agent   *agentConn
	oom     *oomEvents

	done    chan struct{} // closed once failure is set, or at Stop
	watched chan struct{} // closed when watch has ended; nil if it never began
	// condemned receives the reason why the machine must be stopped although all
	// its parts run.
	condemned chan error

	// mu guards what follows and is held across no blocking call.
	mu         sync.Mutex
	failure    error
	finished   bool
	containers map[string]*Container
}

// New boots the sandbox and returns once its agent has answered and the guest
// is set up. ctx and the configured boot deadline both end the attempt; on any
// failure everything acquired is released before New returns, or said to be left,
// and then released by Cleanup.
func New(ctx context.Context, o Options) (*Sandbox, error) {
	j, err := claim(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		id: o.ID, cfg: o.Agent, log: o.Log.With("sandbox", o.ID), journal: j, undo: undo.New(j),
		done: make(chan struct{}), containers: make(map[string]*Container),
		oom: newOOMEvents(), condemned: make(chan error, 1), spawner: o.Spawner, hooks: o.Hooks,
	}
	s.undo.Push("the state folder", undo.Last, func(context.Context) error { return j.Remove() })
	s.undo.Push("the containers", undo.UsedByGuest, s.releaseContainers)
	if err := s.boot(ctx, o); err != nil {
		s.finish(err)
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		err = errors.Join(err, s.undo.Run(cleanup))
		return nil, errors.Join(err, j.Close()) // what is left is Cleanup's
	}
	if o.OOM != nil {
		s.watchOOM(o.OOM)
	}
	s.watched = make(chan struct{})
	go func() {
		defer close(s.watched)
		s.watch()
	}()
	return s, nil
}

// claim claims the sandbox's folder; what a dead predecessor of the same bundle
// left there is released first. A predecessor that lives keeps its own.
func claim(ctx context.Context, o Options) (*journal.Journal, error) {
	self, err := process.Identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("identify the shim's process: %w", err)
	}
	header := journal.Header{ID: o.ID, Namespace: o.Namespace, Bundle: o.Bundle, Shim: self}
	j, err := journal.Claim(o.StateRoot, header)
	if !errors.Is(err, fs.ErrExist) {
		return j, err
	}
	if err := releaseDead(ctx, o.StateRoot, o.ID, o.Bundle); err != nil {
		return nil, err
	}
	return journal.Claim(o.StateRoot, header)
}

// releaseDead releases what a dead shim has left.
func releaseDead(ctx context.Context, root, id, bundle string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	now, stop := context.WithCancel(ctx)
	stop() // whoever holds it now holds it
	j, err := journal.TakeOver(now, root, id, bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went by itself
	}
	if err != nil {
		return err
	}
	return release(ctx, j)
}

// ID returns the sandbox's name.
func (s *Sandbox) ID() string { return s.id }

// Dir returns the folder of the sandbox's sockets and state.
func (s *Sandbox) Dir() string { return s.journal.Dir() }

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
// What could not be released is named by the error and tried again by the next
// call; calls wait for each other. After one that returned nil there is nothing
// left to do.
func (s *Sandbox) Stop(ctx context.Context) error {
	if s.finish(nil) {
		s.agent.destroy(ctx, s.log)
	}
	err := s.undo.Run(ctx)
	if s.watched != nil {
		<-s.watched // done is closed: it stops the machine at most, which has been done
	}
	return err
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
	case reason = <-s.condemned:
	case <-s.guest.Done():
		reason = s.guest.Err()
	case <-s.agent.lost():
		reason = s.guest.Lost()
	}
	if !s.finish(s.guest.Explain(reason)) {
		return
	}
	s.log.Error("sandbox died", "error", reason)
	if err := s.guest.Kill(); err != nil {
		s.log.Error("stop the virtual machine", "error", err)
	}
}
