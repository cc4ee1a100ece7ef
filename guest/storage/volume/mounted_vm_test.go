//go:build vmtest

package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tmpfs mounts one with options for the test.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	point := t.TempDir()
	if err := unix.Mount("tmpfs", point, "tmpfs", unix.MS_NOSUID, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	return point
}

func TestMeasure(t *testing.T) {
	point := tmpfs(t, "size=1m,nr_inodes=100")
	if err := os.WriteFile(point+"/file", make([]byte, 3*os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	page := uint64(os.Getpagesize())
	want := Stats{Bytes: Usage{1 << 20, 3 * page, 1<<20 - 3*page}, Inodes: Usage{100, 2, 98}}
	for _, path := range []string{point, point + "/file"} {
		if got, err := Measure(path); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", path, got, err, want)
		}
	}
	// What only opening it could tell nobody wants to know of these.
	for name, mode := range map[string]uint32{"pipe": unix.S_IFIFO, "device": unix.S_IFCHR} {
		if err := unix.Mknod(filepath.Join(point, name), mode|0o600, int(unix.Mkdev(240, 240))); err != nil {
			t.Fatal(err)
		}
		if got, err := Measure(filepath.Join(point, name)); err != nil || got.Problem != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// A file that nobody can read.
	if got, err := Measure("/sys/bus/platform/drivers_probe"); err != nil || got.Problem == "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func wantLimits(t *testing.T, point string, size, inodes uint64) {
	t.Helper()
	stats, err := Measure(point)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Bytes.Total != size || stats.Inodes.Total != inodes {
		t.Errorf("%s has %d bytes and %d inodes, want %d and %d", point, stats.Bytes.Total, stats.Inodes.Total, size, inodes)
	}
}

func TestLimit(t *testing.T) {
	one, two := tmpfs(t, "size=1m,nr_inodes=100"), tmpfs(t, "size=2m,nr_inodes=200")
	if err := os.WriteFile(one+"/file", []byte("stays"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Limit([]Limits{
		{Path: one, Options: []string{"remount", "size=8m"}},
		{Path: two, Options: []string{"nr_inodes=1k", "fsgid=1000", "nr_blocks=16"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantLimits(t, one, 8<<20, 100)
	wantLimits(t, two, 16<<12, 1024)
	if text, err := os.ReadFile(one + "/file"); err != nil || string(text) != "stays" {
		t.Errorf("%q, %v", text, err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(one, &stat); err != nil || stat.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags %x, %v", stat.Flags, err)
	}
	if err := Limit([]Limits{{Path: one}, {Path: two, Options: []string{"remount"}}}); err != nil {
		t.Error(err)
	}
	wantLimits(t, one, 8<<20, 100)
}

func TestOneBadLimitLeavesAllAsTheyWere(t *testing.T) {
	one, two, free := tmpfs(t, "size=1m,nr_inodes=100"), tmpfs(t, "size=2m,nr_inodes=200"), tmpfs(t, "size=0")
	if err := os.WriteFile(two+"/file", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ramfs := t.TempDir()
	if err := unix.Mount("ramfs", ramfs, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(ramfs, unix.MNT_DETACH) }()
	for name, tt := range map[string]struct {
		bad  Limits
		kind error
		text string
	}{
		"not there":            {Limits{Path: one + "/x", Options: []string{"size=1m"}}, ErrNotFound, "/x"},
		"not mounted":          {Limits{Path: filepath.Dir(one), Options: []string{"size=1m"}}, ErrNotFound, "nothing is mounted"},
		"another file system":  {Limits{Path: ramfs, Options: []string{"size=1m"}}, ErrInvalid, "no tmpfs"},
		"another option":       {Limits{Path: two, Options: []string{"size=1m", "mode=0777"}}, ErrInvalid, `"mode=0777"`},
		"a flag":               {Limits{Path: two, Options: []string{"ro"}}, ErrInvalid, `"ro"`},
		"no number":            {Limits{Path: two, Options: []string{"size=lots"}}, ErrInvalid, `"size=lots"`},
		"a negative size":      {Limits{Path: two, Options: []string{"size=-1"}}, ErrInvalid, `"size=-1"`},
		"no value":             {Limits{Path: two, Options: []string{"size="}}, ErrInvalid, `"size="`},
		"no limit":             {Limits{Path: two, Options: []string{"size=0k"}}, ErrInvalid, `"size=0k"`},
		"a zero byte":          {Limits{Path: two, Options: []string{"size=1\x00"}}, ErrInvalid, "option"},
		"less than is used":    {Limits{Path: two, Options: []string{"size=4k"}}, ErrUnable, "Too small"},
		"had no limit":         {Limits{Path: free, Options: []string{"size=1m"}}, ErrUnable, "retroactively"},
		"fewer than there are": {Limits{Path: two, Options: []string{"nr_inodes=1"}}, ErrUnable, "inodes"},
	} {
		for i := range 2 {
			list := []Limits{{Path: one, Options: []string{"size=8m", "nr_inodes=8"}}, {Path: one, Options: []string{"size=7m"}}}
			list[i] = tt.bad
			err := Limit(list)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "storages["+strconv.Itoa(i)+"]") {
				t.Errorf("%s, %d: %v", name, i, err)
			}
		}
		wantLimits(t, one, 1<<20, 100)
		wantLimits(t, two, 2<<20, 200)
	}
}

func TestOnlyStaleMountsAreForgotten(t *testing.T) {
	root := tmpfs(t, "")
	mount := func(below string) string {
		t.Helper()
		point := filepath.Join(root, below)
		if err := os.MkdirAll(point, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		return point
	}
	mount("stays")
	mount("stays/too")
	// Nobody can be found behind a link that has been put in the way.
	hidden := mount("dir/hidden")
	if err := os.Rename(root+"/dir", root+"/moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("moved", root+"/dir"); err != nil {
		t.Fatal(err)
	}
	if err := ForgetStale(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got := mountsBelow(string(table), root); len(got) != 3 {
		t.Errorf("mounted are %q, and %s was", got, hidden)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ForgetStale(ctx, root); !errors.Is(err, context.Canceled) {
		t.Errorf("ForgetStale: %v", err)
	}
}

func TestOnlyFileSystemsOnDisksGrow(t *testing.T) {
	if err := Resize(t.Context(), tmpfs(t, ""), 1<<20, time.Hour); !errors.Is(err, ErrUnable) {
		t.Errorf("Resize: %v", err)
	}
}
