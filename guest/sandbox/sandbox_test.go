package sandbox

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/container"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/stage"
)

func init() { runtime.LockOSThread() } // for stages

func TestMain(m *testing.M) {
	stage.Main()
	os.Exit(m.Run())
}

func fakeSpec(id string) *ocispec.Container {
	c := &ocispec.Container{Plan: plan.Plan{Process: *sleepProcess()}}
	c.Plan.State.ID = id
	return c
}

func sleepProcess() *plan.Process { return &plan.Process{Args: []string{"sleep", "100000"}} }

// pod is a sandbox of a fake's parts that has been created.
func pod(t *testing.T, f *fake) *Sandbox {
	t.Helper()
	s := New(f.config())
	if err := s.Create(t.Context(), Options{ID: "pod"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustCreate(t *testing.T, s *Sandbox, id string) *Container {
	t.Helper()
	if err := s.CreateContainer(t.Context(), ContainerOptions{Spec: fakeSpec(id)}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustDestroy(t *testing.T, f *fake, s *Sandbox) {
	t.Helper()
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	f.nothingLeft()
}

// TestEveryFailureOfACreation makes each step of a creation fail: nothing is left
// and the name is free again.
func TestEveryFailureOfACreation(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		step    string
		options func(*ContainerOptions)
		want    string
	}{
		"devices":                 {step: "assign", want: "broken"},
		"storages":                {step: "mount", want: "broken"},
		"a shared mount":          {options: func(o *ContainerOptions) { o.SharedMounts = []*agentpb.SharedMount{{SrcCtr: "nobody"}} }, want: `shared_mounts[0].src_ctr: container "nobody"`},
		"streams":                 {step: "open", want: "broken"},
		"the runtime":             {step: "create", want: "broken"},
		"the runtime with a rest": {step: "create with a rest", want: "broken"},
		"the terminal":            {step: "terminal", want: "use the terminal"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			before := f.mounted // the sandbox's own
			if tt.step != "" {
				f.fail(tt.step, broken)
			}
			o := ContainerOptions{Spec: fakeSpec("c")}
			if tt.options != nil {
				tt.options(&o)
			}
			err := s.CreateContainer(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if _, err := s.Container("c"); !errors.Is(err, ErrNotFound) {
				t.Errorf("the container is known: %v", err)
			}
			if f.mounted != before || f.assigned != 0 {
				t.Errorf("%d storages, %d devices are left", f.mounted-before, f.assigned)
			}
			f.fail(tt.step, nil)
			mustCreate(t, s, "c")
			mustDestroy(t, f, s)
		})
	}
}

func TestACreationEndsWithItsCaller(t *testing.T) {
	for _, step := range []string{"assign", "mount", "open", "create"} {
		t.Run(step, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			entered, release := f.block(step)
			defer release()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.CreateContainer(ctx, ContainerOptions{Spec: fakeSpec("c")}) }()
			<-entered
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			mustDestroy(t, f, s)
		})
	}
}

func TestACreationEndsWithARemoval(t *testing.T) {
	f := newFake(t)
	s := pod(t, f)
	entered, release := f.block("create")
	defer release()
	done := make(chan error, 1)
	go func() { done <- s.CreateContainer(t.Context(), ContainerOptions{Spec: fakeSpec("c")}) }()
	<-entered
	c, err := s.Container("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrState) {
		t.Errorf("start while it is created: %v", err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the creation succeeded")
	}
	mustDestroy(t, f, s)
}

// TestRemovalIsAGate has a call of each kind under way when the removal begins:
// it waits for them, and refuses those that come later.
func TestRemovalIsAGate(t *testing.T) {
	call := func(f func(context.Context, Instance) error) func(context.Context, *Container) error {
		return func(ctx context.Context, c *Container) error { return c.With(ctx, f) }
	}
	for name, do := range map[string]func(context.Context, *Container) error{
		"stats": call(func(_ context.Context, r Instance) error { _, err := r.Stats(); return err }),
		"pause": call(func(ctx context.Context, r Instance) error { return r.Pause(ctx) }),
		"exec": func(ctx context.Context, c *Container) error {
			return c.Exec(ctx, ExecOptions{ID: "e", Process: sleepProcess()})
		},
		"update": call(func(_ context.Context, r Instance) error { return r.Update(nil) }),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			c := mustCreate(t, s, "c")
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			entered, release := f.block(name)
			called, removed := make(chan error, 1), make(chan error, 1)
			go func() { called <- do(t.Context(), c) }()
			<-entered
			go func() { removed <- c.Remove(t.Context()) }()
			<-c.alive.Done() // it has begun
			if err := do(t.Context(), c); !errors.Is(err, ErrNotFound) {
				t.Errorf("a call during the removal: %v", err)
			}
			if p, err := c.Process(""); err != nil || !errors.Is(p.Signal(t.Context(), unix.SIGTERM), ErrNotFound) {
				t.Errorf("a signal during the removal is sent (%v)", err)
			}
			release()
			<-called
			if err := <-removed; err != nil {
				t.Error(err)
			}
			for _, i := range f.instances {
				if len(i.used) > 0 {
					t.Errorf("used after it was destroyed: %v", i.used)
				}
			}
			mustDestroy(t, f, s)
		})
	}
}

func TestTheExitIsToldDuringTheRemoval(t *testing.T) {
	f := newFake(t)
	s := pod(t, f)
	c := mustCreate(t, s, "c")
	p, err := c.Process("")
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit, 1)
	go func() {
		exit, err := p.Wait(t.Context())
		if err != nil {
			t.Error(err)
		}
		exits <- exit
	}()
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if exit := <-exits; exit.Status != 137 {
		t.Errorf("exit %+v", exit)
	}
	mustDestroy(t, f, s)
}

// TestAProcessThatCannotBeKilled is one in state D: its removal answers in time
// and says what is left, delays no other's, and is finished in the background.
func TestAProcessThatCannotBeKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := pod(t, f)
		stuck, other := mustCreate(t, s, "stuck"), mustCreate(t, s, "other")
		_, release := f.block("destroy")
		begin := time.Now()
		err := stuck.Remove(t.Context())
		if took := time.Since(begin); took != removeTime {
			t.Errorf("the answer took %v", took)
		}
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "have not ended") {
			t.Errorf("error %v", err)
		}
		if _, err := s.Container("stuck"); err != nil {
			t.Errorf("its name is free: %v", err)
		}
		f.mu.Lock() // only the first one hangs
		hung := f.blocks["destroy"]
		delete(f.blocks, "destroy")
		f.mu.Unlock()
		if err := other.Remove(t.Context()); err != nil {
			t.Errorf("another container: %v", err)
		}
		if took := time.Since(begin); took != removeTime {
			t.Errorf("the other's removal took %v", took-removeTime)
		}
		f.mu.Lock()
		f.blocks["destroy"] = hung
		f.mu.Unlock()
		release()
		synctest.Wait()
		if _, err := s.Container("stuck"); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is not removed when its process has ended: %v", err)
		}
		mustDestroy(t, f, s)
	})
}

// TestAFailedRemovalIsRepeated has a step fail at first.
func TestAFailedRemovalIsRepeated(t *testing.T) {
	t.Run("by its caller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			c := mustCreate(t, s, "c")
			f.fail("destroy", unix.EBUSY)
			for range 3 {
				if err := c.Remove(t.Context()); !errors.Is(err, unix.EBUSY) {
					t.Errorf("error %v", err)
				}
			}
			f.fail("destroy", nil)
			if err := c.Remove(t.Context()); err != nil {
				t.Error(err)
			}
			mustDestroy(t, f, s)
		})
	})
	t.Run("by itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			c := mustCreate(t, s, "c")
			f.fail("destroy", unix.EBUSY)
			if err := c.Remove(t.Context()); !errors.Is(err, unix.EBUSY) {
				t.Errorf("error %v", err)
			}
			time.Sleep(10 * retryFirst)
			f.fail("destroy", nil)
			time.Sleep(retryLast)
			if _, err := s.Container("c"); !errors.Is(err, ErrNotFound) {
				t.Errorf("it is still there: %v", err)
			}
			mustDestroy(t, f, s)
		})
	})
	for _, step := range []string{"unmount", "release devices"} {
		t.Run(step, func(t *testing.T) {
			f := newFake(t)
			s := pod(t, f)
			c := mustCreate(t, s, "c")
			f.fail(step, unix.EBUSY)
			if err := c.Remove(t.Context()); !errors.Is(err, unix.EBUSY) {
				t.Errorf("error %v", err)
			}
			f.fail(step, nil)
			mustDestroy(t, f, s)
		})
	}
}

func TestSharedPIDsHoldTheirOwner(t *testing.T) {
	f := newFake(t)
	s := pod(t, f)
	shared := func(id string) error {
		return s.CreateContainer(t.Context(), ContainerOptions{Spec: fakeSpec(id), SandboxPidns: true})
	}
	if err := shared("owner"); err != nil {
		t.Fatal(err)
	}
	if got := f.instances[0].spec.Plan.Namespaces; len(got) != 1 || got[0].Flag != unix.CLONE_NEWPID {
		t.Errorf("the owner has the namespaces %v", got)
	}
	entered, release := f.block("create")
	defer release()
	done := make(chan error, 1)
	go func() { done <- shared("second") }()
	<-entered
	owner, err := s.Container("owner")
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Remove(t.Context()); err != nil { // ends the creation that needs it
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("the second one joined what is gone")
	}
	release()
	if err := shared("third"); err != nil { // the next owner
		t.Error(err)
	}
	mustDestroy(t, f, s)
}

// TestModulesWaitForTheMachine: what they make is not taken for what the kernel has
// made unasked.
func TestModulesWaitForTheMachine(t *testing.T) {
	f := newFake(t)
	cfg := f.config()
	ready := make(chan struct{})
	cfg.Ready = ready
	s := New(cfg)
	prepared := 0
	o := Options{ID: "pod", Prepare: func() error { prepared++; return nil }}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Create(gone, o); !errors.Is(err, context.Canceled) || prepared != 0 {
		t.Errorf("before the machine is ready: %v, prepared %d times", err, prepared)
	}
	close(ready)
	if err := s.Create(t.Context(), o); err != nil || prepared != 1 {
		t.Errorf("when the machine is ready: %v, prepared %d times", err, prepared)
	}
}

func TestTheSandboxsOwnFailures(t *testing.T) {
	f := newFake(t)
	s := New(f.config())
	if err := s.CreateContainer(t.Context(), ContainerOptions{Spec: fakeSpec("c")}); !errors.Is(err, ErrState) {
		t.Errorf("a container without a sandbox: %v", err)
	}
	broken := errors.New("broken")
	f.fail("mount", broken)
	if err := s.Create(t.Context(), Options{ID: "pod"}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	f.fail("mount", nil)
	if err := s.Create(t.Context(), Options{ID: "pod", Prepare: func() error { return broken }}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if err := s.Create(t.Context(), Options{ID: "pod", HookDir: t.TempDir() + "/none"}); !errors.Is(err, ErrInvalid) || f.mounted != 0 {
		t.Errorf("error %v, %d mounted", err, f.mounted)
	}
	if err := s.Create(t.Context(), Options{ID: "pod"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), Options{ID: "pod"}); !errors.Is(err, ErrExists) {
		t.Errorf("a second sandbox: %v", err)
	}
	c := mustCreate(t, s, "c")
	if err := s.CreateContainer(t.Context(), ContainerOptions{Spec: fakeSpec("c")}); !errors.Is(err, ErrExists) {
		t.Errorf("a second container of its name: %v", err)
	}
	if err := c.Exec(t.Context(), ExecOptions{ID: "e", Process: sleepProcess()}); !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("exec before start: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrState) {
		t.Errorf("a second start: %v", err)
	}
	for step, err := range map[string]error{"open": broken, "exec": broken, "terminal": nil} {
		f.fail(step, broken)
		if got := c.Exec(t.Context(), ExecOptions{ID: "e", Process: sleepProcess()}); got == nil || err != nil && !errors.Is(got, err) {
			t.Errorf("exec with a failure of %s: %v", step, got)
		}
		f.fail(step, nil)
		if _, err := c.Process("e"); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is known: %v", err)
		}
	}
	f.fail("close storages", broken)
	if err := s.Destroy(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	f.fail("close storages", nil)
	mustDestroy(t, f, s)
	if err := s.Create(t.Context(), Options{ID: "pod"}); !errors.Is(err, ErrState) {
		t.Errorf("a sandbox after its end: %v", err)
	}
}
