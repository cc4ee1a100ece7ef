package tasktest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/host/shim/task"
	"kata/host/stdio"
)

// limit is longer than anything here takes.
const limit = time.Minute

// Run is the suite: what a task.Sandbox has to do. boot returns one that runs, and
// what makes its virtual machine die of the reason. A process "exit N" has to end
// with N, and one "sleep" to go on.
func Run(t *testing.T, boot func(t *testing.T) (s task.Sandbox, die func(reason error))) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"a process runs when it is started, and its exit is told", testExit},
		{"an id is taken once", testID},
		{"an exec has an exit of its own", testExec},
		{"SIGKILL ends a process", testKill},
		{"Kill ends the first process", testKillAll},
		{"what a container offers works", testOperations},
		{"a deletion ends processes and frees the id", testDelete},
		{"a creation that was given up leaves nothing", testGivenUp},
		{"Stop ends everything, and may be repeated", testStop},
		{"the death of the machine ends everything with a reason", testDeath},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, die := boot(t)
			test.run(&suite{t, s, die})
		})
	}
}

type suite struct {
	*testing.T
	sandbox task.Sandbox
	die     func(error)
}

// request describes a container whose process does what the arguments say.
func (s *suite) request(id string, args ...string) task.ContainerRequest {
	s.Helper()
	bundle := s.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		s.Fatal(err)
	}
	return task.ContainerRequest{ID: id, Bundle: bundle, Spec: &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: args, Cwd: "/"},
	}}
}

func (s *suite) create(id string, args ...string) task.Container {
	s.Helper()
	c, err := s.sandbox.CreateContainer(s.Context(), s.request(id, args...))
	if err != nil {
		s.Fatal(err)
	}
	return c
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) awaits(what string, done <-chan struct{}) {
	s.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		s.Fatalf("%s was awaited in vain", what)
	}
}

func (s *suite) exits(p task.Process, status uint32) {
	s.Helper()
	s.awaits("the exit", p.Done())
	if got := p.Exit().Status; got != status {
		s.Errorf("it ended with %d, want %d", got, status)
	}
	if at := p.Exit().At; at.IsZero() || time.Since(at) < 0 || time.Since(at) > limit {
		s.Errorf("it ended at %v", at)
	}
}

func (s *suite) runs(p task.Process) {
	s.Helper()
	select {
	case <-p.Done():
		s.Errorf("it has ended with %d", p.Exit().Status)
	default:
	}
}

func testExit(s *suite) {
	c := s.create("c1", "exit", "3")
	s.runs(c.Init())
	s.ok(c.Init().Start(s.Context()))
	s.exits(c.Init(), 3)
	s.awaits("the end of output", c.Init().Drained())
}

func testID(s *suite) {
	s.create("c1", "sleep")
	if _, err := s.sandbox.CreateContainer(s.Context(), s.request("c1", "sleep")); err == nil {
		s.Error("a second container has it")
	}
	s.create("c2", "sleep")
}

func testExec(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	p, err := c.Exec(s.Context(), "e1", &specs.Process{Args: []string{"exit", "9"}, Cwd: "/"}, stdio.Config{})
	s.ok(err)
	if _, err := c.Exec(s.Context(), "e1", &specs.Process{Args: []string{"sleep"}, Cwd: "/"}, stdio.Config{}); err == nil {
		s.Error("two execs have one id")
	}
	s.runs(p)
	s.ok(p.Start(s.Context()))
	s.exits(p, 9)
	s.runs(c.Init())
	s.ok(p.Delete(s.Context()))
	_, err = c.Exec(s.Context(), "e1", &specs.Process{Args: []string{"sleep"}, Cwd: "/"}, stdio.Config{})
	s.ok(err)
}

func testKill(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	s.ok(c.Init().Signal(s.Context(), uint32(unix.SIGKILL)))
	s.exits(c.Init(), killed)
}

func testKillAll(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Kill(s.Context(), uint32(unix.SIGKILL))) // before it was started
	s.exits(c.Init(), killed)
}

func testOperations(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	s.ok(c.Pause(s.Context()))
	s.ok(c.Resume(s.Context()))
	s.ok(c.Update(s.Context(), &specs.LinuxResources{}))
	s.ok(c.Init().Resize(s.Context(), 80, 24))
	s.ok(c.Init().CloseStdin(s.Context()))
	stats, err := c.Stats(s.Context())
	s.ok(err)
	if stats.GetCgroupStats() == nil {
		s.Errorf("statistics without a cgroup: %v", stats)
	}
}

func testDelete(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	for range 2 {
		s.ok(c.Delete(s.Context()))
	}
	s.exits(c.Init(), killed)
	s.create("c1", "sleep")
}

func testGivenUp(s *suite) {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if _, err := s.sandbox.CreateContainer(ctx, s.request("c1", "sleep")); err == nil {
		s.Error("it was created")
	}
	s.create("c1", "sleep")
}

func testStop(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	for range 2 {
		s.ok(s.sandbox.Stop(s.Context()))
	}
	s.awaits("the end of the sandbox", s.sandbox.Done())
	s.ok(s.sandbox.Err())
	s.exits(c.Init(), killed)
	s.over()
	s.ok(c.Delete(s.Context()))
}

func testDeath(s *suite) {
	c := s.create("c1", "sleep")
	s.ok(c.Init().Start(s.Context()))
	reason := errors.New("out of luck")
	s.die(reason)
	s.awaits("the end of the sandbox", s.sandbox.Done())
	if err := s.sandbox.Err(); !errors.Is(err, reason) {
		s.Errorf("it ended with %v", err)
	}
	s.exits(c.Init(), killed)
	s.over()
	s.ok(c.Delete(s.Context()))
	s.ok(s.sandbox.Stop(s.Context()))
	if err := s.sandbox.Err(); !errors.Is(err, reason) {
		s.Errorf("after Stop the reason is %v", err)
	}
}

// over checks that nothing is created any more.
func (s *suite) over() {
	s.Helper()
	if _, err := s.sandbox.CreateContainer(s.Context(), s.request("late", "sleep")); err == nil {
		s.Error("a container was created in a sandbox that has ended")
	}
}
