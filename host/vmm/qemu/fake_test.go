package qemu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/host/process"
	"kata/host/vmm"
)

// fakeEnv makes this test binary a QEMU that behaves as it says.
const fakeEnv = "KATA_TEST_FAKE_QEMU"

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(fakeEnv); behaviour != "" {
		fakeQEMU(behaviour)
		return
	}
	files, goroutines := countFiles(), runtime.NumGoroutine()
	code := m.Run()
	if code == 0 {
		code = checkLeaks(files, goroutines)
	}
	os.Exit(code)
}

func countFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// checkLeaks compares with the start; goroutines that are just ending get a
// moment.
func checkLeaks(files, goroutines int) int {
	for range 1000 {
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		runtime.Gosched()
		runtime.GC()
	}
	code := 0
	if now := runtime.NumGoroutine(); now > goroutines {
		stacks := make([]byte, 1<<16)
		fmt.Fprintf(os.Stderr, "%d goroutines, %d at the start\n%s\n", now, goroutines, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	// The poller's own two descriptors come with the first use.
	if now := countFiles(); now > files+2 {
		listing, _ := exec.Command("ls", "-l", fmt.Sprintf("/proc/%d/fd", os.Getpid())).Output()
		fmt.Fprintf(os.Stderr, "%d descriptors, %d at the start\n%s\n", now, files, listing)
		code = 1
	}
	return code
}

// fakeQEMU has the two descriptors that QEMU is started with.
func fakeQEMU(behaviour string) {
	control, console := os.NewFile(qmpFD, "qmp"), os.NewFile(consoleFD, "console")
	say := func(line string) { fmt.Fprintf(control, "%s\r\n", line) }
	fmt.Fprintf(console, "booting %s\r\n", behaviour)
	filter, _ := strings.CutPrefix(strings.Join(os.Args[1:min(3, len(os.Args))], " "), "-sandbox ")
	switch behaviour {
	case "knows no filter":
		if strings.HasPrefix(filter, "on") {
			fmt.Fprintln(os.Stderr, "qemu: -sandbox on: There is no option group 'sandbox'")
			os.Exit(1)
		}
	case "sets its scheduling":
		if strings.Contains(filter, "resourcecontrol=deny") {
			badSystemCall()
		}
	case "refuses":
		fmt.Fprintln(os.Stderr, "qemu: no such device: flux capacitor")
		os.Exit(1)
	case "ends":
		os.Exit(0)
	case "is mute":
		<-time.After(time.Hour)
	case "talks nonsense":
		say("220 smtp ready")
		<-time.After(time.Hour)
	}
	fmt.Fprintf(console, "filter: %s\r\n", filter)
	say(`{"QMP": {"version": {"qemu": {"micro": 1, "minor": 2, "major": 9}}, "capabilities": []}}`)
	status := "running"
	if behaviour == "is paused" {
		status = "prelaunch"
	}
	if behaviour == "is killed by its filter" {
		badSystemCall()
	}
	asked := 0
	lines := bufio.NewScanner(control)
	for lines.Scan() {
		var command struct {
			Execute string
			ID      int
		}
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			panic(err)
		}
		result := "{}"
		switch command.Execute {
		case "query-status":
			result = fmt.Sprintf(`{"status": %q, "running": true}`, status)
			asked++
		case "quit":
			if behaviour == "does not quit" {
				continue
			}
		}
		say(fmt.Sprintf(`{"return": %s, "id": %d}`, result, command.ID))
		if command.Execute == "quit" {
			os.Exit(0)
		}
		if command.Execute == "query-status" && asked == 2 {
			fakeMisfortune(behaviour, say, &status)
		}
	}
	os.Exit(0)
}

// badSystemCall is how a seccomp filter ends a process.
func badSystemCall() {
	panic(syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -SYS $$"}, nil))
}

// fakeMisfortune is what happens to a running machine when it is checked.
func fakeMisfortune(behaviour string, say func(string), status *string) {
	switch behaviour {
	case "has an internal error":
		*status = "internal-error"
		say(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}`)
	case "is paused by somebody":
		*status = "paused"
		say(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}`)
	case "sees a panic":
		say(`{"event": "GUEST_PANICKED", "data": {"action": "poweroff"}, "timestamp": {"seconds": 1, "microseconds": 0}}`)
		say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}, "timestamp": {"seconds": 1, "microseconds": 0}}`)
		os.Exit(0)
	case "crashes":
		fmt.Fprintln(os.Stderr, "qemu: assertion failed")
		os.Exit(134)
	case "hangs up":
		os.NewFile(qmpFD, "qmp").Close()
		<-time.After(time.Hour)
	}
}

// fakeMachine returns a machine whose QEMU is this test binary.
func fakeMachine(t *testing.T, behaviour string) *Machine {
	t.Helper()
	spec, cfg := sound(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s='%s' exec '%s' \"$@\"\n", fakeEnv, behaviour, self)
	cfg.Path = filepath.Join(spec.Dir, "fake")
	if err := os.WriteFile(cfg.Path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return newMachine(t, spec, cfg)
}

func newMachine(t *testing.T, spec vmm.Spec, cfg Config) *Machine {
	t.Helper()
	spawner := process.NewSpawner()
	t.Cleanup(spawner.Close)
	m, err := New(spec, cfg, spawner, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pids := m.Pids()
		if err := m.Stop(within(t, time.Second)); err != nil {
			t.Errorf("Stop: %v", err)
		}
		<-m.Done()
		for _, id := range pids {
			if _, err := process.Identify(id.PID); err == nil {
				t.Errorf("process %d is left", id.PID)
			}
		}
	})
	return m
}

func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not hold %q", err, text)
		}
	}
}
