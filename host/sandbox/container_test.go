package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/host/journal"
	"kata/host/rootfs"
	"kata/host/stdio"
)

func TestLifeOfAContainer(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "cat")
	in, out := filepath.Join(o.Bundle, "in"), filepath.Join(o.Bundle, "out")
	if err := unix.Mkfifo(in, 0o600); err != nil {
		t.Fatal(err)
	}
	o.Stdio = stdio.Config{Stdin: in, Stdout: "file://" + out}
	c, err := s.CreateContainer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec(t.Context(), "e1", &specs.Process{Args: []string{"exit", "7"}, Cwd: "/"}, stdio.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := awaitExit(t, p); status != 7 {
		t.Errorf("status of the exec %d", status)
	}
	w, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, "hello")
	if err := errors.Join(err, w.Close(), c.Init().CloseStdin(t.Context())); err != nil {
		t.Fatal(err)
	}
	if status := awaitExit(t, c.Init()); status != 0 {
		t.Errorf("status %d", status)
	}
	<-c.Init().Drained()
	if b, err := os.ReadFile(out); err != nil || string(b) != "hello" {
		t.Errorf("it wrote %q, %v", b, err)
	}
	if _, err := s.CreateContainer(t.Context(), o); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("creating it twice gave %v", err)
	}
	for range 2 {
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.parts.Agent.Containers(); len(got) != 0 {
		t.Errorf("the guest has %q", got)
	}
	if err := f.create(s, "c1", "sleep").Delete(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// ofContainers counts the journal's entries of containers.
func (f *fixture) ofContainers(s *Sandbox) int {
	n := 0
	for _, r := range f.records(s) {
		m, mount := r.Entry.(journal.Mount)
		if _, ok := r.Entry.(journal.Container); ok || mount && strings.Count(m.Target, "mounts/") > 0 {
			n++
		}
	}
	return n
}

func (f *fixture) noContainerIsLeft(s *Sandbox) {
	f.Helper()
	if got := f.parts.Agent.Containers(); len(got) != 0 {
		f.Errorf("the guest has %q", got)
	}
	if got := f.parts.Tree.Shared(); len(got) != 0 {
		f.Errorf("shared are %q", got)
	}
	if got := f.ofContainers(s); got != 0 {
		f.Errorf("the journal lists %v", f.records(s))
	}
}

// creationSteps are those of a creation that succeeds.
func creationSteps(t *testing.T) []string {
	t.Helper()
	f := newFixture(t)
	s := f.boot()
	before := len(f.parts.Faults.Tried())
	f.create(s, "c1", "sleep")
	return slices.DeleteFunc(f.parts.Faults.Tried()[before:], func(step string) bool { return step == "agent.WaitProcess" })
}

func TestEveryStepOfACreationThatFailsIsAnErrorAndLeavesNothing(t *testing.T) {
	steps := creationSteps(t)
	if len(steps) < 5 {
		t.Errorf("there are only the steps %q", steps)
	}
	f := newFixture(t)
	s := f.boot()
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			f.parts.Faults.Fail(step, -1, errInjected)
			_, err := s.CreateContainer(t.Context(), f.container("c1", "sleep"))
			f.parts.Faults.Clear()
			if err == nil || !strings.Contains(err.Error(), "injected") || !strings.Contains(err.Error(), "c1") {
				t.Errorf("creating gave %v", err)
			}
			f.noContainerIsLeft(s)
			if err := f.create(s, "c1", "sleep").Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSpecsThatCannotBeLeaveNothing(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	for name, spoil := range map[string]func(o *ContainerOptions){
		"no root":             func(o *ContainerOptions) { o.Spec.Root = nil },
		"a root that is none": func(o *ContainerOptions) { o.Spec.Root.Path = "nothing" },
		"a root that is a file": func(o *ContainerOptions) {
			o.Spec.Root.Path = "/etc/hostname"
		},
		"a volume that is none":    func(o *ContainerOptions) { o.Spec.Mounts[0].Source = "/nothing" },
		"a spec that is none":      func(o *ContainerOptions) { o.Spec.Process = nil },
		"a file system of nothing": func(o *ContainerOptions) { o.Rootfs = []rootfs.Mount{{Type: "nothing", Source: "none"}} },
		"an id that is none":       func(o *ContainerOptions) { o.ID = "a/b" },
		"a stream that is none":    func(o *ContainerOptions) { o.Stdio.Stdout = "/nothing/out" },
	} {
		t.Run(name, func(t *testing.T) {
			o := f.container("c1", "sleep")
			spoil(&o)
			if _, err := s.CreateContainer(t.Context(), o); err == nil {
				t.Error("it was created")
			}
			f.noContainerIsLeft(s)
		})
	}
}

// A root file system that the sandbox mounts is unmounted with its container,
// and with the sandbox.
func TestMountedRootFileSystemsAreUnmounted(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	create := func(id string) (*Container, string) {
		o := f.container(id, "sleep")
		tmpfs := rootfs.Mount{Type: "tmpfs", Source: "test", Options: []string{"size=64k"}}
		o.Rootfs = []rootfs.Mount{tmpfs, tmpfs}
		c, err := s.CreateContainer(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return c, filepath.Join(o.Bundle, "rootfs")
	}
	mounted := func(path string) bool {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), " "+path+" ")
	}
	c, first := create("c1")
	_, second := create("c2")
	if !mounted(first) || !mounted(second) {
		t.Error("they are not mounted")
	}
	if err := c.Delete(t.Context()); err != nil || mounted(first) || !mounted(second) {
		t.Errorf("delete: %v; mounted: %v, the other: %v", err, mounted(first), mounted(second))
	}
	if err := s.Stop(t.Context()); err != nil || mounted(second) {
		t.Errorf("stop: %v; mounted: %v", err, mounted(second))
	}
}

func TestAnAbortedCreationLeavesNothingInTheGuest(t *testing.T) {
	for name, step := range map[string]string{
		"while the guest is at it":          "agent.CreateContainer",
		"before the guest has looked at it": "agent.CreateContainer.arrives",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			s := f.boot()
			goOn := make(chan struct{})
			f.parts.Faults.Hold(step, goOn)
			ctx, abort := context.WithCancelCause(t.Context())
			failed := make(chan error)
			go func() {
				_, err := s.CreateContainer(ctx, f.container("c1", "sleep"))
				failed <- err
			}()
			await(t, func() bool { return slices.Contains(f.parts.Faults.Tried(), step) })
			abort(errInjected)
			// The removal overtakes a creation that has not begun.
			await(t, func() bool { return slices.Contains(f.parts.Faults.Tried(), "agent.RemoveContainer") })
			close(goOn)
			if err := <-failed; !errors.Is(err, errInjected) {
				t.Errorf("creating gave %v", err)
			}
			f.noContainerIsLeft(s)
		})
	}
}

func TestACreationThatTakesTooLongLeavesNothingInTheGuest(t *testing.T) {
	f := newFixture(t)
	f.agent.CreateTimeout = 50 * time.Millisecond
	s := f.boot()
	f.parts.Faults.Hold("agent.CreateContainer", never())
	if _, err := s.CreateContainer(t.Context(), f.container("c1", "sleep")); err == nil || !strings.Contains(err.Error(), "create container c1") {
		t.Errorf("creating gave %v", err)
	}
	f.noContainerIsLeft(s)
}

func TestStopEndsACreation(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.parts.Faults.Hold("agent.CreateContainer", never())
	failed := make(chan error)
	go func() {
		_, err := s.CreateContainer(t.Context(), f.container("c1", "sleep"))
		failed <- err
	}()
	await(t, func() bool { return slices.Contains(f.parts.Faults.Tried(), "agent.CreateContainer") })
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("it was created")
	}
	f.nothingIsLeft()
}

func TestWhatTheGuestMayUseStaysUntilItIsOut(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	shared, held := f.parts.Tree.Shared(), f.ofContainers(s)
	f.parts.Faults.Fail("agent.RemoveContainer", 2, errInjected)
	for range 2 {
		if err := c.Delete(t.Context()); err == nil || !strings.Contains(err.Error(), "injected") || !strings.Contains(err.Error(), "may still use it") {
			t.Errorf("delete gave %v", err)
		}
		if got := f.parts.Tree.Shared(); !slices.Equal(got, shared) || f.ofContainers(s) != held {
			t.Errorf("shared are %q, not %q; held are %v", got, shared, f.records(s))
		}
		if _, err := s.CreateContainer(t.Context(), f.container("c1", "sleep")); err == nil {
			t.Error("another got its id")
		}
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	f.noContainerIsLeft(s)
}

func TestEveryReleaseOfAContainerThatFailsIsTriedAgain(t *testing.T) {
	for _, step := range []string{"agent.RemoveContainer", "files.undo", "files.remove"} {
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			s := f.boot()
			c := f.create(s, "c1", "sleep")
			f.parts.Faults.Fail(step, 1, errInjected)
			if err := c.Delete(t.Context()); err == nil {
				t.Error("the failure is not told")
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			f.noContainerIsLeft(s)
		})
	}
}

// What a failed creation could not release is released by the next under its id.
func TestTheNextCreationReleasesWhatAFailedOneHasLeft(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.parts.Faults.Fail("agent.CreateContainer", -1, errInjected)
	f.parts.Faults.Fail("files.undo", -1, errInjected)
	for range 2 {
		if _, err := s.CreateContainer(t.Context(), f.container("c1", "sleep")); err == nil || !strings.Contains(err.Error(), "files.undo") {
			t.Errorf("creating gave %v", err)
		}
	}
	f.parts.Faults.Clear()
	if err := f.create(s, "c1", "sleep").Delete(t.Context()); err != nil {
		t.Error(err)
	}
	f.noContainerIsLeft(s)
}

func TestAContainerThatTheGuestDoesNotKnowIsRemoved(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	f.parts.Agent.Forget("c1")
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	f.noContainerIsLeft(s)
}

func TestOperationsOnAContainer(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	for step, do := range map[string]func(context.Context) error{
		"agent.StartContainer":  c.Start,
		"agent.PauseContainer":  c.Pause,
		"agent.ResumeContainer": c.Resume,
		"agent.StatsContainer":  func(ctx context.Context) error { _, err := c.Stats(ctx); return err },
		"agent.UpdateContainer": func(ctx context.Context) error { return c.Update(ctx, &specs.LinuxResources{}) },
		"agent.SignalProcess":   func(ctx context.Context) error { return c.Kill(ctx, 1) },
		"agent.TtyWinResize":    func(ctx context.Context) error { return c.Init().Resize(ctx, 80, 24) },
	} {
		f.parts.Faults.Fail(step, 1, errInjected)
		if err := do(t.Context()); err == nil || !strings.Contains(err.Error(), "injected") {
			t.Errorf("%s: %v", step, err)
		}
		if err := do(t.Context()); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	if err := c.Kill(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	if status := awaitExit(t, c.Init()); status != statusKilled {
		t.Errorf("status %d", status)
	}
}

// await waits until something has happened that tells nobody of itself.
func await(t *testing.T, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}
