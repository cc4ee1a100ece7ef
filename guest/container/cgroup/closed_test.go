package cgroup

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"kata/api/ocipb"
)

// TestADestroyedGroupHitsNoOther calls everything on a group that is gone while
// its number is another group's.
func TestADestroyedGroupHitsNoOther(t *testing.T) {
	root := cgroup2(t)
	old, err := Create(root, fmt.Sprintf("/katatest%d-old", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	number := old.dir.Number()
	if err := old.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := Create(root, fmt.Sprintf("/katatest%d-new", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if got := other.dir.Number(); got != number {
		t.Fatalf("the new group has the number %d, not the free %d: nothing is shown", got, number)
	}
	for name, call := range map[string]func() error{
		"Kill":     old.Kill,
		"Freeze":   func() error { return old.Freeze(t.Context()) },
		"Thaw":     func() error { return old.Thaw(t.Context()) },
		"Frozen":   func() error { _, err := old.Frozen(); return err },
		"Add":      func() error { return old.Add(os.Getpid(), os.Getpid()) },
		"Apply":    func() error { return old.Apply(&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 7}}) },
		"devices":  func() error { return old.Apply(&ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{}}}) },
		"Stats":    func() error { _, err := old.Stats(); return err },
		"OOMKills": func() error { _, err := old.OOMKills(); return err },
		"Use":      func() error { return old.Use(func(int) error { return nil }) },
	} {
		if err := call(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s of a destroyed group: %v, want os.ErrClosed", name, err)
		}
	}
	if err := old.Destroy(t.Context()); err != nil {
		t.Errorf("a further Destroy: %v", err)
	}
	if text, err := other.read("cgroup.freeze"); err != nil || text != "0\n" {
		t.Errorf("the other group's cgroup.freeze: %q, %v", text, err)
	}
}
