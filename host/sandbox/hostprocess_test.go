package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/stdio"
)

func pidIsThere(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestAContainersPidShowsItsRootAndGoesBeforeTheExitIsTold(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	if err := os.WriteFile(filepath.Join(o.Bundle, "rootfs", "hello"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := s.CreateContainer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Init().PID()
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "root/hello")); err != nil {
		t.Error(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Signal(t.Context(), sigkill); err != nil {
		t.Fatal(err)
	}
	if status := awaitExit(t, c.Init()); status != statusKilled || pidIsThere(pid) {
		t.Errorf("status %d; its pid is there: %v", status, pidIsThere(pid))
	}
	if c.Init().PID() != pid {
		t.Error("its pid is forgotten")
	}
}

func TestAKilledPidKillsWhatItStandsFor(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := c.Exec(t.Context(), "e1", &specs.Process{Args: []string{"sleep"}, Cwd: "/"}, stdio.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if e.PID() != 0 {
		t.Errorf("an exec that was not started has the pid %d", e.PID())
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Process{e, c.Init()} {
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if status := awaitExit(t, p); status != statusKilled {
			t.Errorf("%s ended with %d", p, status)
		}
	}
}

func TestPidsGoWithTheSandbox(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	f.parts.VMM.Die(errInjected)
	if status := awaitExit(t, c.Init()); status != statusKilled || pidIsThere(c.Init().PID()) {
		t.Errorf("status %d; its pid is there: %v", status, pidIsThere(c.Init().PID()))
	}
}

func TestAContainerInANetworkNamespaceThatIsNotThereIsRefused(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	o.Spec.Linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/no/netns"}}}
	if _, err := s.CreateContainer(t.Context(), o); err == nil || !strings.Contains(err.Error(), "network namespace: open /no/netns") {
		t.Errorf("creating gave %v", err)
	}
	f.noContainerIsLeft(s)
}
