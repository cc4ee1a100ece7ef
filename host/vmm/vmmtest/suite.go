// Package vmmtest is the conformance suite of [vmm.Machine]: what every driver
// must do, tried on real guests. A driver's test calls [Run] with a function
// that makes its machines.
//
// It also has what such tests need: a guest that is one static Go binary
// ([Initrd], [TestInit]) and the kernel to boot it ([Kernel]). Each power that the
// driver's machines have ([Powers]) is tried with a guest that says what it sees.
package vmmtest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/host/process"
	"kata/host/vmm"
)

// Limit bounds every wait of a test: far longer than anything takes.
const Limit = 60 * time.Second

// NewFunc makes a machine of the driver under test.
type NewFunc func(vmm.Spec, *process.Spawner, *slog.Logger) (vmm.Machine, error)

// ServeShare serves a folder by virtio-fs on a socket until the test ends.
type ServeShare func(t *testing.T, spawner *process.Spawner, dir, socket string)

// Suite is what the tests share.
type Suite struct {
	New     NewFunc
	Accel   string
	Spawner *process.Spawner
	kernel  string
	initrd  string

	serveShare ServeShare
}

// Run runs the suite.
func Run(t *testing.T, newMachine NewFunc, accel string, serve ServeShare) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	s := &Suite{newMachine, accel, spawner, Kernel(t), Initrd(t, TestInit), serve}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Suite)
	}{
		{"a guest boots, prints, and stops when asked", testBootAndStop},
		{"a guest that powers off ends the machine", testPowerOff},
		{"a guest that reboots ends the machine", testReboot},
		{"a guest that panics ends the machine with its last words", testPanic},
		{"a kernel without a root ends the machine with its last words", testNoRoot},
		{"a garbage initrd ends the machine with the kernel's last words", testGarbageInitrd},
		{"SIGKILL of the VMM is noticed at once", testKilled},
		{"Stop kills a VMM that does not answer", testStopHung},
		{"Stop interrupts Start", testStopDuringStart},
		{"a cancelled Start leaves nothing", testStartCancelled},
		{"Stop before Start", testStopBeforeStart},
		{"a machine starts once", testStartTwice},
		{"a kernel that is none is an error that says so", testNoKernel},
		{"a backend that is not there is an error that names it", testNoBackend},
		{"two vCPUs come up", testTwoCPUs},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
	t.Run("power", func(t *testing.T) { runPowers(t, s) })
}

// Spec returns a small machine that boots the test guest; words are further
// kernel parameters.
func (s *Suite) Spec(t *testing.T, words ...string) vmm.Spec {
	dir := t.TempDir()
	return vmm.Spec{
		ID: "test", Dir: dir, VCPUs: 1, MemoryMiB: 256,
		Kernel: s.kernel, Initrd: s.initrd, KernelParams: words, Accel: s.Accel,
	}
}

// Machine makes a machine that is stopped when the test ends.
func (s *Suite) Machine(t *testing.T, spec vmm.Spec) vmm.Machine {
	t.Helper()
	before := openFiles(t)
	m, err := s.New(spec, s.Spawner, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pids := m.Pids()
		if err := m.Stop(deadline(t, 10*time.Second)); err != nil {
			t.Errorf("Stop: %v", err)
		}
		for _, id := range pids {
			if _, err := process.Identify(id.PID); err == nil {
				t.Errorf("process %d is left", id.PID)
			}
		}
		if pids := m.Pids(); len(pids) != 0 {
			t.Errorf("Pids after Stop: %v", pids)
		}
		if after := openFiles(t); after > before {
			t.Errorf("%d descriptors are open, %d before", after, before)
		}
	})
	return m
}

func (s *Suite) start(t *testing.T, spec vmm.Spec) vmm.Machine {
	t.Helper()
	m := s.Machine(t, spec)
	if err := m.Start(deadline(t, Limit)); err != nil {
		t.Fatal(err)
	}
	return m
}

// AwaitConsole returns when the machine's console file holds text. The file is
// watched with inotify.
func AwaitConsole(t testing.TB, m vmm.Machine, file, text string) {
	t.Helper()
	watch, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(watch), "inotify")
	defer events.Close()
	if _, err := syscall.InotifyAddWatch(watch, file, syscall.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	_ = events.SetReadDeadline(time.Now().Add(Limit))
	buffer := make([]byte, 4096)
	for {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), text) {
			return
		}
		select {
		case <-m.Done():
			t.Fatalf("the machine ended before it said %q: %v\n%s", text, m.Err(), content)
		default:
		}
		if _, err := events.Read(buffer); err != nil {
			t.Fatalf("wait for %q on the console: %v\n%s", text, err, content)
		}
	}
}

func awaitDone(t *testing.T, m vmm.Machine) {
	t.Helper()
	select {
	case <-m.Done():
	case <-deadline(t, Limit).Done():
		t.Fatalf("the machine did not end; console:\n%s", m.ConsoleTail())
	}
}

// awaitDeath waits for the machine's own end and checks what Err says.
func awaitDeath(t *testing.T, m vmm.Machine, texts ...string) {
	t.Helper()
	awaitDone(t, m)
	err := m.Err()
	if err == nil {
		t.Fatal("Err is nil after a death nobody asked for")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("Err = %v\nwant it to hold %q", err, text)
		}
	}
}

func deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, errors.New("the test's limit"))
	t.Cleanup(cancel)
	return ctx
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func consoleFile(spec *vmm.Spec) string {
	spec.ConsoleFile = filepath.Join(spec.Dir, "console.log")
	return spec.ConsoleFile
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
