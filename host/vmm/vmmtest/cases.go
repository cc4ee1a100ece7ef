package vmmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/host/vmm"
)

func testBootAndStop(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	file := consoleFile(&spec)
	m := s.start(t, spec)
	if pids := m.Pids(); len(pids) == 0 || !pids[0].Alive() {
		t.Errorf("Pids = %v, want a live process", pids)
	}
	if err := m.Err(); err != nil {
		t.Errorf("Err while running: %v", err)
	}
	AwaitConsole(t, m, file, Ready)
	if tail := m.ConsoleTail(); !strings.Contains(tail, Ready) {
		t.Errorf("ConsoleTail = %q", tail)
	}
	if checker, ok := m.(vmm.Checker); ok {
		if err := checker.Check(deadline(t, Limit)); err != nil {
			t.Errorf("Check: %v", err)
		}
	}
	for range 2 { // the second must find nothing to do
		if err := m.Stop(deadline(t, Limit)); err != nil {
			t.Fatalf("Stop: %v", err)
		}
		awaitDone(t, m)
		if err := m.Err(); err != nil {
			t.Errorf("Err after Stop: %v", err)
		}
	}
	if checker, ok := m.(vmm.Checker); ok && checker.Check(deadline(t, Limit)) == nil {
		t.Error("Check of a stopped machine says nothing")
	}
}

func testPowerOff(t *testing.T, s *Suite) {
	m := s.start(t, s.Spec(t, "test.do=poweroff"))
	awaitDeath(t, m, "guest-shutdown", Ready)
}

func testReboot(t *testing.T, s *Suite) {
	m := s.start(t, s.Spec(t, "test.do=reboot"))
	awaitDeath(t, m, "guest-reset", Ready)
}

func testPanic(t *testing.T, s *Suite) {
	m := s.start(t, s.Spec(t, "test.do=panic"))
	awaitDeath(t, m, "Kernel panic", "Attempted to kill init")
}

func testNoRoot(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	spec.Initrd = ""
	awaitDeath(t, s.start(t, spec), "Kernel panic", "Unable to mount root fs")
}

func testGarbageInitrd(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	spec.Initrd = filepath.Join(spec.Dir, "garbage")
	if err := os.WriteFile(spec.Initrd, []byte(strings.Repeat("this is no archive\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, s.start(t, spec), "Kernel panic")
}

func testKilled(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	file := consoleFile(&spec)
	m := s.start(t, spec)
	AwaitConsole(t, m, file, Ready)
	start := time.Now()
	if err := m.Pids()[0].Kill(deadline(t, Limit)); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, m, "killed", Ready)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("noticed after %s", took)
	}
}

func testStopHung(t *testing.T, s *Suite) {
	m := s.start(t, s.Spec(t, "test.do=spin"))
	// A stopped process answers nothing, as a VMM whose backend is stuck.
	if err := syscall.Kill(m.Pids()[0].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(deadline(t, 200*time.Millisecond)); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	awaitDone(t, m)
	if err := m.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func testStopDuringStart(t *testing.T, s *Suite) {
	m := s.Machine(t, s.Spec(t))
	started := make(chan error, 1)
	go func() { started <- m.Start(deadline(t, Limit)) }()
	if err := m.Stop(deadline(t, Limit)); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	// Either Start came first and was undone, or Stop did and Start refuses.
	// A Start that won completely is a machine that Stop ended.
	<-started
	awaitDone(t, m)
	if pids := m.Pids(); len(pids) != 0 {
		t.Errorf("Pids = %v", pids)
	}
}

func testStartCancelled(t *testing.T, s *Suite) {
	m := s.Machine(t, s.Spec(t))
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("changed my mind")
	cancel(cause)
	err := m.Start(ctx)
	if !errors.Is(err, cause) {
		t.Errorf("Start = %v, want the context's cause", err)
	}
	awaitDone(t, m)
}

func testStopBeforeStart(t *testing.T, s *Suite) {
	m := s.Machine(t, s.Spec(t))
	if err := m.Stop(deadline(t, Limit)); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	awaitDone(t, m)
	if err := m.Start(deadline(t, Limit)); err == nil {
		t.Error("a stopped machine starts")
	}
}

func testStartTwice(t *testing.T, s *Suite) {
	m := s.start(t, s.Spec(t))
	if err := m.Start(deadline(t, Limit)); err == nil {
		t.Error("a second Start succeeds")
	}
	select {
	case <-m.Done():
		t.Errorf("the second Start ended the machine: %v", m.Err())
	default:
	}
}

func testNoKernel(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	spec.Kernel = filepath.Join(spec.Dir, "kernel")
	if err := os.WriteFile(spec.Kernel, []byte("\x7fELF, but not really"+strings.Repeat(".", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	m := s.Machine(t, spec)
	if err := m.Start(deadline(t, Limit)); err == nil {
		// Some VMMs run whatever they are given; then the machine must end.
		awaitDeath(t, m)
	}
	awaitDone(t, m)
}

func testNoBackend(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	spec.Vsock = &vmm.Vsock{Socket: filepath.Join(spec.Dir, "nobody.sock")}
	m := s.Machine(t, spec)
	err := m.Start(deadline(t, Limit))
	if err == nil || !strings.Contains(err.Error(), "nobody.sock") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Start = %v, want one line that names the socket", err)
	}
	awaitDone(t, m)
}

func testTwoCPUs(t *testing.T, s *Suite) {
	spec := s.Spec(t)
	spec.VCPUs, spec.MaxVCPUs, spec.Debug = 2, 4, true
	file := consoleFile(&spec)
	m := s.start(t, spec)
	AwaitConsole(t, m, file, "Brought up 1 node, 2 CPUs")
	AwaitConsole(t, m, file, Ready)
}
