package vmmtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/vmm"
)

func testVCPUs(t *testing.T, s *Suite) {
	m, await := s.watched(t, func(spec *vmm.Spec) { spec.MaxVCPUs = 3 })
	cpus := m.(vmm.VCPUResizer)
	resize := func(n int) {
		t.Helper()
		if have, err := cpus.ResizeVCPUs(deadline(t, Limit), n); err != nil || have != n {
			t.Fatalf("ResizeVCPUs(%d) = %d, %v", n, have, err)
		}
	}
	resize(3)
	await("test: cpus 0-2 <nil>")
	resize(3) // nothing to do
	// Some VMMs cannot take a vCPU back under emulation. They say so and go on.
	switch have, err := cpus.ResizeVCPUs(deadline(t, Limit), 1); {
	case err == nil && have == 1:
		await("test: cpus 0\r")
		resize(2)
	case err == nil || have != 3 || s.Accel != vmm.AccelTCG:
		t.Errorf("ResizeVCPUs(1) = %d, %v", have, err)
	default:
		t.Log(err)
		resize(3)
	}
	for _, n := range []int{0, 4} {
		if have, err := cpus.ResizeVCPUs(deadline(t, Limit), n); err == nil {
			t.Errorf("ResizeVCPUs(%d) = %d of 1 to 3", n, have)
		}
	}
}

func testMemory(t *testing.T, s *Suite) {
	const blockMiB = 128 // of Linux's hotplug, on small machines
	m, await := s.watched(t, func(spec *vmm.Spec) { spec.MaxMemoryMiB = spec.MemoryMiB + 2*blockMiB })
	memory := m.(vmm.MemoryResizer)
	boot := s.Spec(t).MemoryMiB
	resize := func(mib int) {
		t.Helper()
		if have, err := memory.ResizeMemory(deadline(t, Limit), mib); err != nil || have != mib {
			t.Fatalf("ResizeMemory(%d) = %d, %v", mib, have, err)
		}
	}
	resize(boot + 2*blockMiB)
	await("test: memory of %d blocks", (boot+2*blockMiB)/blockMiB)
	resize(boot)
	for _, mib := range []int{boot - 1, boot + 2*blockMiB + 1} {
		if have, err := memory.ResizeMemory(deadline(t, Limit), mib); err == nil {
			t.Errorf("ResizeMemory(%d) = %d", mib, have)
		}
	}
}

// testPause watches the time that the VMM spends: its guest spins.
func testPause(t *testing.T, s *Suite) {
	spec := s.Spec(t, "test.do=spin")
	file := consoleFile(&spec)
	m := s.start(t, spec)
	AwaitConsole(t, m, file, Ready)
	pauser := m.(vmm.Pauser)
	for range 2 {
		if err := pauser.Pause(deadline(t, Limit)); err != nil {
			t.Fatal(err)
		}
	}
	const little, much = 3, 10 // ticks of 10 ms
	before := ticks(t, m)
	time.Sleep(much * 2 * 10 * time.Millisecond) // the time that a guest would have used
	if spent := ticks(t, m) - before; spent > little {
		t.Errorf("the VMM of a paused guest used %d ticks", spent)
	}
	select {
	case <-m.Done():
		t.Fatalf("the paused machine has ended: %v", m.Err())
	default:
	}
	for range 2 {
		if err := pauser.Resume(deadline(t, Limit)); err != nil {
			t.Fatal(err)
		}
	}
	for limit := time.Now().Add(Limit); ticks(t, m)-before < much; {
		if time.Now().After(limit) {
			t.Fatal("the resumed guest does not run")
		}
		time.Sleep(10 * time.Millisecond) // nothing tells
	}
	if err := pauser.Pause(deadline(t, Limit)); err != nil { // Stop ends a paused one
		t.Fatal(err)
	}
}

// ticks is the processor time of the VMM, in hundredths of a second.
func ticks(t *testing.T, m vmm.Machine) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.Pids()[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	sum := 0
	for _, field := range fields[11:13] { // utime, stime: the 14th and 15th of all
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// testSnapshot saves a guest that counts, and lets two copies count on, and talk.
func testSnapshot(t *testing.T, s *Suite) {
	spec := s.Spec(t, "test.do=tick")
	spec.MemoryFile = memoryFile(t, spec.MemoryMiB)
	file := consoleFile(&spec)
	m := s.start(t, spec)
	AwaitConsole(t, m, file, "tick 5.")
	snapshotter := m.(vmm.Snapshotter)
	dir := t.TempDir()
	if err := snapshotter.Snapshot(deadline(t, Limit), dir); err == nil {
		t.Fatal("a running machine is saved")
	}
	if err := snapshotter.Pause(deadline(t, Limit)); err != nil {
		t.Fatal(err)
	}
	if err := snapshotter.Snapshot(deadline(t, Limit), dir); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(deadline(t, Limit)); err != nil {
		t.Fatal(err)
	}
	last := lastTick(t, file)
	for range 2 {
		clone := spec
		clone.Dir = t.TempDir()
		clone.MemoryPrivate, clone.Restore = true, dir
		file := consoleFile(&clone)
		m := s.start(t, clone)
		// What the first had written to its serial port, but not yet said, is said
		// again at most.
		AwaitConsole(t, m, file, fmt.Sprintf("tick %d.", last+3))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), Ready) || strings.Contains(string(text), "tick 1.") {
			t.Errorf("the restored guest has booted:\n%s", text)
		}
		// Its memory is its own: a back-end that maps the file would not see it.
		if has[vmm.VsockPlugger](m) {
			plugVsock(t, m, func() int { return m.Pids()[0].PID })
		}
	}
}

// lastTick returns the last number that a guest has counted to.
func lastTick(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndex(string(text[:strings.LastIndexByte(string(text), '.')]), "tick "):]), " ")
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memoryFile makes a file for a guest's memory.
func memoryFile(t *testing.T, mib int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(mib) << 20); err != nil {
		t.Fatal(err)
	}
	return file
}
