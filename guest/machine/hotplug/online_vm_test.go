//go:build vmtest

package hotplug

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestGroupsKnowNewCPUsAtOnce takes a CPU out of use and back.
func TestGroupsKnowNewCPUsAtOnce(t *testing.T) {
	const cgroups, cpu = "/sys/fs/cgroup", "/sys/devices/system/cpu/cpu1/online"
	if err := write(cgroups+"/cgroup.subtree_control", "+cpuset"); err != nil {
		t.Fatal(err)
	}
	group := cgroups + "/container"
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(group)
	m := New(time.Minute)
	for range 20 {
		if err := write(cpu, "0"); err != nil {
			t.Fatal(err)
		}
		if got, err := read(group + "/cpuset.cpus.effective"); err != nil || got != "0" {
			t.Fatalf("the group has CPUs %q, %v", got, err)
		}
		if err := m.OnlineCPUs(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got, err := read(group + "/cpuset.cpus.effective"); err != nil || got != "0-1" {
			t.Fatalf("the group has CPUs %q, %v", got, err)
		}
	}
	if err := m.OnlineCPUs(t.Context(), 1); !errors.Is(err, ErrInvalid) {
		t.Errorf("all are online: %v", err)
	}
}

func TestSwapAreasOnly(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty": "", "short": "SWAPSPACE2", "blank": strings.Repeat("\x00", 1<<20),
		"version 1": strings.Repeat("\x00", os.Getpagesize()-10) + "SWAP-SPACE" + strings.Repeat("\x00", 1<<16),
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Swap(dir + "/" + name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(dir + "/" + name); err != nil || string(got) != text {
			t.Errorf("%s has changed, %v", name, err)
		}
	}
	// The page says it is one, and the rest of it does not.
	header := strings.Repeat("\x00", os.Getpagesize()-10) + "SWAPSPACE2" + strings.Repeat("\x00", 1<<16)
	if err := os.WriteFile(dir+"/broken", []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("broken", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]error{
		"broken": ErrInvalid, "link": ErrInvalid, "": ErrInvalid, "nothing": ErrNotFound, "broken/x": ErrNotFound,
		strings.Repeat("x", 300): ErrInvalid,
	} {
		if err := Swap(dir + "/" + name); !errors.Is(err, kind) {
			t.Errorf("%.20s: %v", name, err)
		}
	}
}
