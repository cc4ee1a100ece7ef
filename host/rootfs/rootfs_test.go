package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestOptionsAreSplitIntoFlagsAndData(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options []string
		flags   uintptr
		data    []string
	}{
		{"nothing", nil, 0, nil},
		{"bind that is read-only", []string{"rbind", "ro"}, unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY, nil},
		{"a later negation wins", []string{"ro", "nosuid", "rw"}, unix.MS_NOSUID, nil},
		{"what is no flag is data", []string{"index=off", "noexec"}, unix.MS_NOEXEC, []string{"index=off"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flags, data := splitOptions(tt.options)
			if flags != tt.flags || !cmp.Equal(data, tt.data) {
				t.Errorf("got %#x %q, want %#x %q", flags, data, tt.flags, tt.data)
			}
		})
	}
}

func TestLayersAreMadeRelativeToTheirCommonFolder(t *testing.T) {
	dir, data := compactLayers([]string{"upperdir=/s/9/fs", "lowerdir=/s/1/fs:/s/22/fs"})
	if dir != "/s" {
		t.Errorf("common folder %q, want /s", dir)
	}
	if want := []string{"upperdir=/s/9/fs", "lowerdir=1/fs:22/fs"}; !cmp.Equal(data, want) {
		t.Errorf("options %q, want %q", data, want)
	}
	if dir, _ := compactLayers([]string{"lowerdir=/a/fs:/b/fs"}); dir != "" {
		t.Errorf("layers without a common folder gave %q", dir)
	}
}

func TestOverlayOfAHundredLayersIsMountedWhole(t *testing.T) {
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount tmpfs (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
	var lower []string
	for i := range 100 {
		d := filepath.Join(base, "snapshots-with-a-long-name", fmt.Sprint(100+i), "fs")
		mkdir(t, d)
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("layer%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, d)
	}
	upper, work, target := filepath.Join(base, "u"), filepath.Join(base, "w"), filepath.Join(base, "t")
	mkdir(t, upper, work, target)
	options := []string{"workdir=" + work, "upperdir=" + upper, "lowerdir=" + strings.Join(lower, ":")}
	if err := MountAll([]Mount{{Type: "overlay", Source: "overlay", Options: options}}, target); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(target)
	if err != nil || len(entries) != 100 {
		t.Errorf("%d entries (%v), want 100", len(entries), err)
	}
	if err := Unmount(target); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(target); len(entries) != 0 {
		t.Errorf("%d entries after unmount", len(entries))
	}
	if err := Unmount(target); err != nil {
		t.Errorf("second unmount: %v", err)
	}
}

func TestAFailedStepUnmountsTheEarlierOnes(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	mkdir(t, filepath.Join(source, "seen"))
	err := MountAll([]Mount{
		{Type: "bind", Source: source, Options: []string{"rbind", "ro"}},
		{Type: "nosuchfs", Source: "none"},
	}, target)
	if err == nil || !strings.Contains(err.Error(), "nosuchfs") {
		t.Errorf("error %v does not name the step", err)
	}
	if entries, _ := os.ReadDir(target); len(entries) != 0 {
		t.Errorf("target still holds %v", entries)
	}
}

func mkdir(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
