package hotplug

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// machine returns a Machine whose files are those given.
func machine(t *testing.T, files map[string]string) *Machine {
	t.Helper()
	m := New(0)
	m.system = t.TempDir()
	for name, text := range files {
		path := filepath.Join(m.system, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// online returns the CPUs of m that are.
func online(t *testing.T, m *Machine) (cpus []int) {
	t.Helper()
	all, err := numbered(m.system+"/cpu", "cpu")
	if err != nil {
		t.Fatal(err)
	}
	for _, cpu := range all {
		if state, err := read(m.system + "/cpu/cpu" + strconv.Itoa(cpu) + "/online"); err == nil && state[0] == '1' {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

func TestTheLowestCPUsComeFirst(t *testing.T) {
	files := map[string]string{"cpu/possible": "0-15", "cpu/online": "0,3", "cpu/cpu0/topology/core_id": "0", "cpu/cpuidle/x": "", "cpu/cpu3/online": "1"}
	for _, cpu := range []string{"1", "2", "9", "10", "11"} {
		files["cpu/cpu"+cpu+"/online"] = "0"
	}
	m := machine(t, files)
	for _, tt := range []struct {
		more int
		want []int
	}{{1, []int{1, 3}}, {2, []int{1, 2, 3, 9}}, {2, []int{1, 2, 3, 9, 10, 11}}} {
		if err := m.OnlineCPUs(t.Context(), tt.more); err != nil {
			t.Fatal(err)
		}
		if got := online(t, m); !slices.Equal(got, tt.want) {
			t.Errorf("%v are online, want %v", got, tt.want)
		}
	}
	if err := m.OnlineCPUs(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more: %v", err)
	}
}

func TestCallsThatComeTogetherGetDifferentCPUs(t *testing.T) {
	files := map[string]string{"cpu/possible": "0-63", "cpu/online": "0"}
	for cpu := 1; cpu < 64; cpu++ {
		files["cpu/cpu"+strconv.Itoa(cpu)+"/online"] = "0"
	}
	m := machine(t, files)
	errs := make(chan error)
	for range 9 {
		go func() { errs <- m.OnlineCPUs(t.Context(), 7) }()
	}
	for range 9 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := online(t, m); len(got) != 63 {
		t.Errorf("%v are online", got)
	}
}

func TestMoreCPUsThanPossibleAreRefusedAtOnce(t *testing.T) {
	m := machine(t, map[string]string{"cpu/possible": "0-3", "cpu/online": "0-1", "cpu/cpu2/online": "0"})
	m.timeout = time.Hour
	for _, n := range []int{3, 1<<32 - 1} {
		if err := m.OnlineCPUs(t.Context(), n); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d CPUs: %v", n, err)
		}
	}
	if got := online(t, m); got != nil {
		t.Errorf("%v are online", got)
	}
}

func TestACPUThatCannotComeOnlineIsNamed(t *testing.T) {
	m := machine(t, map[string]string{"cpu/possible": "0-3", "cpu/online": "0", "cpu/cpu1/online": "0", "cpu/cpu2/online/x": ""})
	err := m.OnlineCPUs(t.Context(), 2)
	if err == nil || err.Error() != "1 of 2 CPUs came online: read "+m.system+"/cpu/cpu2/online: is a directory" {
		t.Errorf("OnlineCPUs: %v", err)
	}
}

func TestOnlineMemory(t *testing.T) {
	m := machine(t, map[string]string{
		"memory/memory0/state": "online", "memory/memory2/state": "offline", "memory/memory10/state": "offline",
		"memory/memory3/phys_index": "", "memory/block_size_bytes": "8000000", "memory/memory11/state/x": "",
	})
	err := m.OnlineMemory(t.Context())
	if err == nil || err.Error() != "read "+m.system+"/memory/memory11/state: is a directory" {
		t.Errorf("OnlineMemory: %v", err)
	}
	for _, block := range []string{"0", "2", "10"} {
		if state, err := read(m.system + "/memory/memory" + block + "/state"); err != nil || state[:6] != "online" {
			t.Errorf("block %s is %q, %v", block, state, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.OnlineMemory(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("OnlineMemory: %v", err)
	}
	if err := machine(t, nil).OnlineMemory(t.Context()); err != nil {
		t.Errorf("a kernel whose memory does not grow: %v", err)
	}
}

func TestCount(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,6-7": 5, "1,10-12": 4} {
		if got := count(list); got != want {
			t.Errorf("%q has %d, want %d", list, got, want)
		}
	}
}

func TestOverlapping(t *testing.T) {
	const table = `00000000-00000fff : Reserved
00001000-0009fbff : System RAM
  00001000-00002fff : Kernel code
20000000-afffffff : PCI Bus 0000:00
  30000000-30ffffff : 0000:00:02.0
100000000-ffffffffffffffff : PCI Bus 0000:00
strange line
`
	for _, tt := range []struct {
		address, size uint64
		want          string
	}{
		{0xfff, 1, "Reserved"},
		{0x1000, 0x1000, "System RAM"},
		{0x9fc00, 0x1000, ""},
		{0x90000, 0x1ff70001, "System RAM"}, // the first of several
		{0x10000000, 0x10000000, ""},
		{0x10000000, 0x10000001, "PCI Bus 0000:00"},
		{0xb0000000, 0x50000000, ""},
		{0xfffffffff8000000, 0x8000000, "PCI Bus 0000:00"},
	} {
		got := overlapping(table, tt.address, tt.size)
		if got != tt.want {
			t.Errorf("%#x, %#x bytes: %q, want %q", tt.address, tt.size, got, tt.want)
		}
	}
}

func TestMemoryCannotBeAnnouncedEverywhere(t *testing.T) {
	if err := machine(t, nil).ProbeMemory([]uint64{0}); !errors.Is(err, ErrUnable) {
		t.Errorf("ProbeMemory: %v", err)
	}
}
