//go:build vm

package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vmm/vmmtest"
)

// TestCage reads what the kernel says about a QEMU that runs a guest.
func TestCage(t *testing.T) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	dir := t.TempDir()
	spec := vmm.Spec{
		ID: "cage", Dir: dir, ConsoleFile: filepath.Join(dir, "console"), VCPUs: 2, MaxVCPUs: 2, MemoryMiB: 256,
		Accel: vmm.AccelTCG, OOMScoreAdj: 77, Kernel: vmmtest.Kernel(t), Initrd: vmmtest.Initrd(t, vmmtest.TestInit),
	}
	m, err := New(spec, Config{}, spawner, discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Stop(within(t, time.Minute)); err != nil {
			t.Error(err)
		}
	}()
	vmmtest.AwaitConsole(t, m, spec.ConsoleFile, vmmtest.Ready)

	pid := m.Pids()[0].PID
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	const none = "0000000000000000"
	for _, thread := range threads {
		status := readFile(t, fmt.Sprintf("/proc/%d/task/%s/status", pid, thread.Name()))
		for field, want := range map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2", "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		} {
			if !strings.Contains(status, field+":\t"+want+"\n") {
				t.Errorf("thread %s of %d: want %s %s in\n%s", thread.Name(), len(threads), field, want, status)
			}
		}
	}
	if got := readFile(t, fmt.Sprintf("/proc/%d/oom_score_adj", pid)); got != "77\n" {
		t.Errorf("oom_score_adj is %q, want the machine's", got)
	}
	var core unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &core); err != nil || core != (unix.Rlimit{}) {
		t.Errorf("RLIMIT_CORE is %+v, %v, want 0", core, err)
	}
	maps := readFile(t, fmt.Sprintf("/proc/%d/maps", pid))
	var start uintptr
	if _, err := fmt.Sscanf(maps, "%x-", &start); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4)
	local := unix.Iovec{Base: unsafe.SliceData(page), Len: uint64(len(page))}
	if _, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: start, Len: len(page)}}, 0); err != nil {
		t.Errorf("this process cannot read QEMU's memory: %v", err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
