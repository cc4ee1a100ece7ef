package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kata/host/journal"
	"kata/host/undo"
)

func TestThePodIsToldToTheGuest(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	request, _ := f.parts.Agent.Sandbox()
	if request.Hostname != "web" || request.SandboxId != "pod" || !slices.Equal(request.Dns, []string{"nameserver 10.0.0.1"}) {
		t.Errorf("the guest was told %+v", request)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, destroyed := f.parts.Agent.Sandbox(); !destroyed {
		t.Error("the guest was not asked to end")
	}
	if s.Err() != nil {
		t.Errorf("an orderly stop is told as %v", s.Err())
	}
}

func TestWhatIsHeldIsInTheJournal(t *testing.T) {
	f := newFixture(t)
	vmm := sleeper(t)
	f.parts.Processes = append(f.parts.Processes, vmm)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	var held []string
	for _, r := range f.records(s) {
		held = append(held, strings.ReplaceAll(r.Entry.String(), s.Dir(), ""))
		if p, ok := r.Entry.(journal.Process); ok && p.RunsGuest && p.ID != vmm {
			t.Errorf("the VMM is %+v, not %+v", p, vmm)
		}
	}
	want := []string{
		"socket /vsock.sock", "mount on /shared/mounts", "mount on /shared/shared", "socket /fs.sock", "process virtiofsd",
		fmt.Sprintf("process vmm (pid %d)", vmm.PID), "socket /agent.sock",
		"container c1", "mount on /shared/mounts/c1/rootfs", "mount on /shared/mounts/c1/mounts/0-volume",
		fmt.Sprintf("process container c1 (pid %d)", c.Init().PID()),
	}
	if !slices.Equal(held, want) {
		t.Errorf("held are\n%s\nwant\n%s", strings.Join(held, "\n"), strings.Join(want, "\n"))
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(f.records(s)); got != len(want)-4 {
		t.Errorf("after the deletion %d are held", got)
	}
}

// bootSteps returns the steps of a boot that succeeds.
func bootSteps(t *testing.T) []string {
	t.Helper()
	f := newFixture(t)
	f.boot()
	return f.parts.Faults.Tried()
}

func TestEveryStepOfABootThatFailsIsAnErrorAndLeavesNothing(t *testing.T) {
	steps := bootSteps(t)
	if len(steps) < 12 {
		t.Errorf("there are only the steps %q", steps)
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			if step == "agent.ready" { // the agent never tells that it is up
				f.agent.BootTimeout = 50 * time.Millisecond
			}
			f.parts.Faults.Fail(step, -1, errInjected)
			s, err := New(t.Context(), f.options())
			if err == nil {
				_ = s.Stop(t.Context())
				t.Fatal("it was booted")
			}
			if step != "agent.ready" && !strings.Contains(err.Error(), "injected") {
				t.Errorf("the error does not tell: %v", err)
			}
			f.nothingIsLeft()
		})
	}
}

func TestEveryStepOfABootThatHangsEndsWithThePatience(t *testing.T) {
	for _, step := range bootSteps(t) {
		if !strings.HasPrefix(step, "agent.") && !strings.HasPrefix(step, "link.dial") && step != "machine.start" {
			continue // the others do not wait
		}
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			f.parts.Faults.Hold(step, never())
			ctx, cancel := context.WithCancelCause(t.Context())
			timer := time.AfterFunc(50*time.Millisecond, func() { cancel(errInjected) })
			defer timer.Stop()
			if _, err := New(ctx, f.options()); err == nil || !strings.Contains(err.Error(), "injected") && !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			f.nothingIsLeft()
		})
	}
}

// never is a channel that is never closed.
func never() <-chan struct{} { return make(chan struct{}) }

func TestABootThatFailsTellsTheConsolesLastLines(t *testing.T) {
	f := newFixture(t)
	f.parts.Faults.Fail("agent.CreateSandbox", 1, errInjected)
	f.parts.Processes = nil
	_, err := New(t.Context(), f.options())
	if err == nil || !strings.Contains(err.Error(), "boot the sandbox") || !strings.Contains(err.Error(), "console is empty") {
		t.Errorf("%v", err)
	}
}

func TestEveryReleaseThatFailsIsToldAndTriedAgain(t *testing.T) {
	// The steps of a stop that succeeds.
	f := newFixture(t)
	s := f.boot()
	f.create(s, "c1", "sleep")
	before := f.parts.Faults.Tried()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	steps := slices.DeleteFunc(f.parts.Faults.Tried(), func(step string) bool {
		return slices.Contains(before, step) || step == "agent.WaitProcess"
	})
	if len(steps) < 5 {
		t.Errorf("there are only the steps %q", steps)
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			f.parts.Processes = append(f.parts.Processes, sleeper(t))
			s := f.boot()
			f.create(s, "c1", "sleep")
			f.parts.Faults.Fail(step, -1, errInjected)
			for range 2 {
				err := s.Stop(t.Context())
				if step == "agent.DestroySandbox" { // the guest ends with its machine anyway
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), "injected") {
					t.Errorf("stop gave %v", err)
				}
				if _, _, err := journal.Read(s.Dir()); err != nil {
					t.Errorf("the state is gone though something is held: %v", err)
				}
			}
			f.parts.Faults.Clear()
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			f.nothingIsLeft()
		})
	}
}

func TestWhileTheMachineMayRunNothingIsUnshared(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.create(s, "c1", "sleep")
	shared := f.parts.Tree.Shared()
	f.parts.Faults.Fail("machine.stop", 1, errInjected)
	// Its process cannot be shown to be dead, once.
	stuck := errInjected
	s.undo.Push("the VMM's process", undo.EndsGuest, func(context.Context) error {
		defer func() { stuck = nil }()
		return stuck
	})
	if err := s.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "the guest may still use it") {
		t.Errorf("stop gave %v", err)
	}
	if got := f.parts.Tree.Shared(); !slices.Equal(got, shared) {
		t.Errorf("shared are %q, not %q", got, shared)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfAnyPartEndsTheSandbox(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(f *fixture)
		want string
	}{
		{"the machine", func(f *fixture) { f.parts.VMM.Die(errors.New("QEMU died of it")) }, "QEMU died of it"},
		{"the machine without a word", func(f *fixture) {
			f.parts.VMM.Say("Kernel panic: oh dear\n")
			f.parts.VMM.Die(nil)
		}, "Kernel panic: oh dear"},
		{"the file server", func(f *fixture) { f.parts.FileServer.Die() }, "file server of the sandbox ended: virtiofsd died"},
		{"the vsock device", func(f *fixture) { f.parts.Vsock.Break(errors.New("bad descriptor")) }, "bad descriptor"},
		{"the agent", func(f *fixture) { f.parts.Agent.HangUp() }, "the agent closed its connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.boot()
			c := f.create(s, "c1", "sleep")
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			tt.end(f)
			awaitDone(t, s)
			if err := s.Err(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it ended with %v, want %q", err, tt.want)
			}
			if status := awaitExit(t, c.Init()); status != statusKilled {
				t.Errorf("the process is reported with %d", status)
			}
			select {
			case <-f.parts.VMM.Done():
			case <-time.After(limit):
				t.Error("the machine was not stopped")
			}
			if _, err := s.CreateContainer(t.Context(), f.container("c2", "sleep")); err == nil {
				t.Error("a container was created in it")
			}
			if err := errors.Join(c.Delete(t.Context()), s.Stop(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnOOMKillIsTold(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.create(s, "c1", "sleep")
	f.parts.Agent.KilledForMemory(t.Context(), "c1")
	if id := <-f.told; id != "c1" {
		t.Errorf("told of %s", id)
	}
}

// The shim is killed: what it held is released from the journal.
func TestCleanupAfterACrash(t *testing.T) {
	f := newFixture(t)
	vmm := sleeper(t)
	f.parts.Processes = append(f.parts.Processes, vmm)
	s, err := New(t.Context(), f.options())
	if err != nil {
		t.Fatal(err)
	}
	f.create(s, "c1", "sleep")
	if err := s.journal.Close(); err != nil { // the lock ends with the process
		t.Fatal(err)
	}
	o := CleanupOptions{StateRoot: f.root, ID: "pod", Bundle: "/bundle", Log: f.options().Log}
	for range 2 { // the second finds nothing and is no error
		if err := Cleanup(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	if vmm.Alive() {
		t.Error("the VMM is alive")
	}
	if entries, err := os.ReadDir(f.root); err != nil || len(entries) != 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
	// The end of the process that this test could not be.
	_ = s.Stop(t.Context())
}

func TestASandboxThatLivesIsNotCleanedUpByAnotherStart(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.create(s, "c1", "sleep")
	other := newFixture(t)
	other.root = f.root
	if _, err := New(t.Context(), other.options()); !errors.Is(err, journal.ErrHeld) {
		t.Errorf("a second start gave %v", err)
	}
	if got := f.parts.Agent.Containers(); len(got) != 1 || len(f.records(s)) == 0 {
		t.Errorf("the first has %q and holds %v", got, f.records(s))
	}
}

func TestStartsUnderOneIDAtOnce(t *testing.T) {
	for range 25 {
		f := newFixture(t)
		var won atomic.Int32
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				mine := newFixture(t)
				mine.root = f.root
				s, err := New(t.Context(), mine.options())
				if err != nil {
					if !errors.Is(err, journal.ErrHeld) && !errors.Is(err, os.ErrExist) {
						t.Errorf("a start gave %v", err)
					}
					return
				}
				won.Add(1)
				if _, err := os.Stat(filepath.Join(s.Dir(), agentSocket)); err != nil {
					t.Errorf("somebody has removed its socket: %v", err)
				}
				if err := s.Stop(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() == 0 {
			t.Error("no start succeeded")
		}
		f.nothingIsLeft()
	}
}

func TestCallsWaitForEachOther(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	f.nothingIsLeft()
}

func TestTheConsolesCopyIsOnDiskAndGoesWithTheSandbox(t *testing.T) {
	f := newFixture(t)
	o := f.options()
	o.ConsoleRoot, o.Guest.Machine.Debug = t.TempDir(), true
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.ConsoleRoot, filepath.Base(s.Dir()))
	if err := os.WriteFile(filepath.Join(dir, "console.log"), []byte("hello"), 0o600); err != nil {
		t.Errorf("it has no folder: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(o.ConsoleRoot); err != nil || len(entries) != 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
	f.nothingIsLeft()
}
