package module

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// image is a set of modules in a folder, with a kernel that notes what it loads.
type image struct {
	*Set
	loaded []string
}

func newImage(t *testing.T, list string, refuse map[string]error) *image {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("list", list)
	write("disable", "0")
	for line := range strings.Lines(list) {
		if words := strings.Fields(line); len(words) > 1 && words[0] != "built" {
			write(words[1]+".ko", words[1])
		}
	}
	write("sys/builtin/parameters/size", "1")
	s, err := Read(dir, "list")
	if err != nil {
		t.Fatal(err)
	}
	i := &image{Set: s}
	s.sys, s.disable = dir+"/sys", dir+"/disable"
	s.load = func(fd int, params string) error {
		name := make([]byte, 100)
		n, err := unix.Read(fd, name)
		if err != nil {
			return err
		}
		if err := refuse[string(name[:n])]; err != nil {
			return err
		}
		i.loaded = append(i.loaded, strings.TrimSpace(string(name[:n])+" "+params))
		write("sys/"+string(name[:n])+"/x", "")
		return nil
	}
	return i
}

const list = `boot ring
boot virtio ring
boot broken
boot vsock virtio ring
more sunrpc
more nfs_common sunrpc
more nfs sunrpc nfs_common virtio
more taken
built ext4 unix
`

func TestBootLoadsInOrderAndFreesTheFiles(t *testing.T) {
	i := newImage(t, list, map[string]error{"broken": unix.ENODEV})
	var failed []string
	i.Boot(func(name string, err error) { failed = append(failed, name+": "+err.Error()) })
	if want := []string{"ring", "virtio", "vsock"}; !slices.Equal(i.loaded, want) {
		t.Errorf("loaded %q, want %q", i.loaded, want)
	}
	if want := []string{"broken: finit_module: no such device"}; !slices.Equal(failed, want) {
		t.Errorf("failed %q, want %q", failed, want)
	}
	left, err := filepath.Glob(i.dir + "/*.ko")
	if err != nil || len(left) != 4 || !i.Left() {
		t.Errorf("left %q, %v", left, err)
	}
	if err := i.Close(); err != nil || i.Left() {
		t.Errorf("closed: %v", err)
	}
	if left, err = filepath.Glob(i.dir + "/*.ko"); err != nil || len(left) != 0 {
		t.Errorf("left at the end: %q, %v", left, err)
	}
	if err := i.Load("nfs", nil); !errors.Is(err, ErrMissing) {
		t.Errorf("after the end: %v", err)
	}
}

func TestLoadByName(t *testing.T) {
	i := newImage(t, list, map[string]error{"taken": unix.EINVAL})
	i.Boot(func(string, error) {})
	i.loaded = nil
	for _, tt := range []struct {
		name   string
		params []string
		want   string
	}{
		{"nfs", []string{"a=1", `b="2 3"`}, ""},
		{"nfs-common", nil, ""}, // by then it is there
		{"builtin", []string{"size=7"}, ""},
		{"ext4", nil, ""},
		{"builtin", []string{"shape=7"}, `it is loaded already, and its parameter "shape=7" cannot be set: open `},
		{"builtin", []string{"../x=7"}, `parameter "../x=7": invalid argument`},
		{"floppy", nil, `neither the guest's image nor its kernel has it`},
		{"../x", nil, `neither`},
		{"", nil, `neither`},
		{"taken", nil, `finit_module: invalid argument`},
	} {
		err := i.Load(tt.name, tt.params)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s %q: %v, want %s", tt.name, tt.params, err, tt.want)
		}
		if errors.Is(err, ErrMissing) != strings.Contains(tt.want, "neither") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if want := []string{"sunrpc", "nfs_common", `nfs a=1 b="2 3"`}; !slices.Equal(i.loaded, want) {
		t.Errorf("loaded %q, want %q", i.loaded, want)
	}
	if text, err := os.ReadFile(i.sys + "/builtin/parameters/size"); err != nil || string(text) != "7" {
		t.Errorf("size %q, %v", text, err)
	}
}

func TestCloseIsForGood(t *testing.T) {
	i := newImage(t, "", nil)
	if i.Left() {
		t.Error("something is left of nothing")
	}
	if err := errors.Join(i.Close(), i.Close()); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(i.disable); err != nil || string(text) != "1" {
		t.Errorf("disabled: %q, %v", text, err)
	}
	i.closed, i.disable = false, "/no/such/file"
	if err := i.Close(); err != nil {
		t.Errorf("a kernel without modules: %v", err)
	}
	if s, err := Read(t.TempDir(), "list"); err != nil || s.Left() {
		t.Errorf("an image without modules: %v", err)
	}
}
