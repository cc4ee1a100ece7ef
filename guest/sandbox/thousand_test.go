package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/container"
)

// TestAThousandContainers makes and removes containers with shared pids beside
// statistics, pauses and kills of those that are just going. No call may hit
// another container, and nothing may be left.
func TestAThousandContainers(t *testing.T) {
	const containers, workers = 1000, 4
	p := realParts(t)
	s := New(p.Config)
	if err := s.Create(t.Context(), Options{ID: "pod"}); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateContainer(t.Context(), ContainerOptions{Spec: p.spec("pause"), SandboxPidns: true}); err != nil {
		t.Fatal(err)
	}
	oneLife(t, s, p, "first") // opens what stays open
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	begin := time.Now()
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < containers && !t.Failed(); i += workers {
				oneLife(t, s, p, fmt.Sprintf("c%d", i))
			}
		})
	}
	all.Wait()
	t.Logf("%d containers took %v", containers, time.Since(begin))
	pause, err := s.Container("pause")
	if err != nil {
		t.Fatal(err)
	}
	if !runs(t, pause) {
		t.Error("the owner of the pids has been hit")
	}
	if now := openFiles(t); now > files {
		t.Errorf("%d files are open, %d before", now, files)
	}
	settled := func() bool { return runtime.NumGoroutine() <= goroutines }
	for end := time.Now().Add(10 * time.Second); !settled() && time.Now().Before(end); {
		runtime.Gosched() // goroutines of the test that have done their work
	}
	if !settled() {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// oneLife makes a container, finds that nobody has hit it, and removes it beside
// calls on it.
func oneLife(t *testing.T, s *Sandbox, p parts, id string) {
	if err := s.CreateContainer(t.Context(), ContainerOptions{Spec: p.spec(id), SandboxPidns: true}); err != nil {
		t.Error(err)
		return
	}
	c, err := s.Container(id)
	if err != nil {
		t.Error(err)
		return
	}
	if err := c.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if !runs(t, c) {
		t.Errorf("container %s has been hit", id)
	}
	var calls sync.WaitGroup
	for _, call := range []func(context.Context, Instance) error{
		func(_ context.Context, r Instance) error { _, err := r.Stats(); return err },
		func(ctx context.Context, r Instance) error { return r.Pause(ctx) },
		func(_ context.Context, r Instance) error { return r.SignalAll(unix.SIGKILL) },
	} {
		calls.Go(func() {
			for {
				switch err := c.With(t.Context(), call); {
				case errors.Is(err, ErrNotFound):
					return
				case err != nil && !errors.Is(err, container.ErrNotRunning) && !errors.Is(err, context.Canceled):
					t.Errorf("container %s: %v", id, err)
					return
				}
			}
		})
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	calls.Wait()
}

// runs reports whether the first process is there and not frozen.
func runs(t *testing.T, c *Container) bool {
	p, err := c.Process("")
	if err != nil {
		t.Error(err)
		return false
	}
	frozen := true
	err = errors.Join(p.Signal(t.Context(), 0), c.With(t.Context(), func(_ context.Context, r Instance) (err error) {
		frozen, err = r.Cgroup().Frozen()
		return err
	}))
	if err != nil {
		t.Error(err)
	}
	return err == nil && !frozen
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
