//go:build vmtest

package oom

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/cgroup"
	"kata/test/leaktest"
)

// hungry in the environment makes the test program take as much memory, in MiB.
const hungry = "OOM_TEST_HUNGRY"

func TestMain(m *testing.M) {
	if size, err := strconv.Atoi(os.Getenv(hungry)); err == nil {
		eat(size << 20)
		return
	}
	os.Exit(leaktest.Run(m, "kata/guest/container/oom."))
}

func eat(size int) {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
}

const limit = 24 << 20

// watcher returns a watcher that runs until the test ends.
func watcher(t *testing.T) *Watcher {
	t.Helper()
	w, err := NewWatcher(nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return w
}

// group returns a cgroup with a memory limit.
func group(t *testing.T, name string) *cgroup.Group {
	t.Helper()
	g, err := cgroup.Create("/sys/fs/cgroup", "/oomtest/"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := g.Apply(&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: limit, Swap: limit}}); err != nil {
		t.Fatal(err)
	}
	return g
}

// start starts a process that takes size MiB, in the cgroup dir.
func start(t *testing.T, dir, size int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{fmt.Sprintf("%s=%d", hungry, size), "GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: dir}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// kill has n processes killed for want of memory, one after the other.
func kill(t *testing.T, dir, n int) {
	t.Helper()
	for range n {
		err := start(t, dir, 100).Wait()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
			t.Fatalf("the process was not killed: %v", err)
		}
	}
}

// next returns the container of the next event, within a time that nothing takes.
func next(t *testing.T, w *Watcher) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	e, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e.Done(nil)
	return e.ContainerID()
}

// none fails the test if there is another event of these containers.
func none(t *testing.T, w *Watcher, containers ...*Container) {
	t.Helper()
	for _, c := range containers {
		c.look()
	}
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	for _, a := range w.queue.pending {
		t.Errorf("%d more events of %s", a.posted-a.taken-a.done, a.id)
	}
}

func TestKillsAreNoticedWithoutAnExit(t *testing.T) {
	w, g := watcher(t), group(t, "a")
	c := w.Watch("a", g)
	defer c.Close()
	for range 3 { // one after the other, each while somebody waits
		got := make(chan string)
		go func() { got <- next(t, w) }()
		kill(t, dirOf(g), 1)
		if id := <-got; id != "a" {
			t.Errorf("event of %q", id)
		}
	}
	kill(t, dirOf(g), 5)
	for range 5 {
		next(t, w)
	}
	none(t, w, c)
}

func TestKillsCountBeforeTheExit(t *testing.T) {
	w, g := watcher(t), group(t, "a")
	c := w.Watch("a", g)
	defer c.Close()
	for i := range 10 {
		kill(t, dirOf(g), 1)
		if events := c.Exited(); events != uint64(i+1) {
			t.Fatalf("%d events after %d kills", events, i+1)
		}
	}
	for range 10 {
		next(t, w)
	}
	none(t, w, c)
}

func TestKillsInGroupsBelow(t *testing.T) {
	w, g := watcher(t), group(t, "a")
	c := w.Watch("a", g)
	defer c.Close()
	const below = "/sys/fs/cgroup/oomtest/a/b"
	if err := os.WriteFile("/sys/fs/cgroup/oomtest/a/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, value := range map[string]string{"memory.max": "10M", "memory.swap.max": "0"} {
		if err := os.WriteFile(below+"/"+file, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(below)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, int(dir.Fd()), 2)
	dir.Close()
	if err := os.Remove(below); err != nil { // and what it counted with it
		t.Fatal(err)
	}
	next(t, w)
	next(t, w)
	none(t, w, c)
}

// TestAGroupThatDiesTogether: every process of it is a kill, as the kernel counts.
func TestAGroupThatDiesTogether(t *testing.T) {
	w, g := watcher(t), group(t, "a")
	c := w.Watch("a", g)
	defer c.Close()
	if err := os.WriteFile("/sys/fs/cgroup/oomtest/a/memory.oom.group", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	sleepers := make([]*exec.Cmd, 3)
	for i := range sleepers {
		sleepers[i] = exec.Command("/bin/busybox", "sleep", "1000")
		sleepers[i].SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: dirOf(g)}
		if err := sleepers[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	kill(t, dirOf(g), 1)
	for _, s := range sleepers {
		_ = s.Wait()
	}
	kills, err := g.OOMKills()
	if err != nil || kills < 4 {
		t.Errorf("%d kills, %v; there were 4 processes", kills, err)
	}
	if events := c.Exited(); events != kills {
		t.Errorf("%d events for %d kills", events, kills)
	}
	for range kills {
		next(t, w)
	}
	none(t, w, c)
}

func TestContainersAtTheSameTimeAndSeveralWaiters(t *testing.T) {
	const containers, kills, waiters = 4, 5, 3
	w := watcher(t)
	groups, watched := make([]*cgroup.Group, containers), make([]*Container, containers)
	for i := range groups {
		groups[i] = group(t, fmt.Sprint(i))
		watched[i] = w.Watch(fmt.Sprint(i), groups[i])
		defer watched[i].Close()
	}
	events := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting, killing sync.WaitGroup
	for range waiters {
		waiting.Go(func() {
			for {
				e, err := w.Next(ctx)
				if err != nil {
					return
				}
				e.Done(nil)
				events <- e.ContainerID()
			}
		})
	}
	for i := range groups {
		killing.Go(func() { kill(t, dirOf(groups[i]), kills) })
	}
	var got []string
	for range containers * kills {
		got = append(got, <-events)
	}
	killing.Wait()
	cancel()
	waiting.Wait()
	none(t, w, watched...)
	for i := range containers {
		n := len(slices.DeleteFunc(slices.Clone(got), func(id string) bool { return id != fmt.Sprint(i) }))
		if n != kills {
			t.Errorf("%d events of container %d", n, i)
		}
	}
}

// TestEventsOutliveTheirContainer: those of a group that was there before count
// for nobody.
func TestEventsOutliveTheirContainer(t *testing.T) {
	w, g := watcher(t), group(t, "a")
	c := w.Watch("a", g)
	kill(t, dirOf(g), 2)
	c.Close()
	c.Close()
	if err := g.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := c.Exited(); events != 2 {
		t.Errorf("%d events", events)
	}
	if len(w.watched) != 0 {
		t.Error("it is watched still")
	}
	next(t, w)
	next(t, w)

	if err := os.Mkdir("/sys/fs/cgroup/oomtest/old", 0o755); err != nil {
		t.Fatal(err)
	}
	for file, value := range map[string]string{"memory.max": "10M", "memory.swap.max": "0"} {
		if err := os.WriteFile("/sys/fs/cgroup/oomtest/old/"+file, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open("/sys/fs/cgroup/oomtest/old")
	if err != nil {
		t.Fatal(err)
	}
	kill(t, int(dir.Fd()), 1)
	dir.Close()
	old := group(t, "old")
	c = w.Watch("old", old)
	defer c.Close()
	kill(t, dirOf(old), 1)
	next(t, w)
	none(t, w, c)
}

// TestWithoutMemoryController: nothing is counted, and nothing fails.
func TestWithoutMemoryController(t *testing.T) {
	w := watcher(t)
	const parent = "/sys/fs/cgroup/without"
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(parent)
	if err := os.Mkdir(parent+"/root", 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(parent + "/root")
	g, err := cgroup.Create(parent+"/root", "/c")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Destroy(context.Background())
	c := w.Watch("c", g)
	defer c.Close()
	if events := c.Exited(); events != 0 {
		t.Errorf("%d events", events)
	}
	none(t, w, c)
}

// dirOf is a descriptor of a group, valid until its Destroy.
func dirOf(g *cgroup.Group) (number int) {
	_ = g.Use(func(dir int) error { number = dir; return nil })
	return number
}
