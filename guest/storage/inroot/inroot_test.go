package inroot

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with hostile links and a secret beside it.
func tree(t *testing.T) (dir string, root int) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "root")
	for _, d := range []string{"etc", "dir/sub"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"../secret": "outside", "secret": "inside", "etc/passwd": "inside"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"up":       "../secret",
		"far":      "../../../../../../../../../../etc/passwd",
		"absolute": "/etc/passwd",
		"dangling": "/made/by/link",
		"relative": "dir/sub/../new",
		"loop":     "loop",
		"outside":  filepath.Join(top, "escape"),
		"magic":    "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return dir, fd
}

func TestOpenStaysInside(t *testing.T) {
	_, root := tree(t)
	for _, path := range []string{"up", "far", "absolute", "/absolute", "../../secret", "dir/../../secret", "/secret"} {
		fd, err := Open(root, path, unix.O_RDONLY)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		f := os.NewFile(uintptr(fd), path)
		buf := make([]byte, 16)
		n, _ := f.Read(buf)
		f.Close()
		if got := string(buf[:n]); got != "inside" {
			t.Errorf("%s leads to %q", path, got)
		}
	}
}

func TestCreateStaysInside(t *testing.T) {
	dir, root := tree(t)
	for _, tt := range []struct {
		name, path, want string
		create           func(int, string, uint32) (int, error)
	}{
		{"plain directories", "a/b/c", "a/b/c", MkdirAll},
		{"dots are clipped at the root", "../../x/../y", "y", MkdirAll},
		{"the target of a dangling link", "dangling/more", "made/by/link/more", MkdirAll},
		{"a relative link", "relative/more", "dir/new/more", MkdirAll},
		{"a link to a place beside the root", "outside/more", filepath.Join(dir, "../escape/more"), MkdirAll},
		{"a file below new directories", "new/dir/file", "new/dir/file", Create},
		{"a file through a dangling link", "dangling/file", "made/by/link/file", Create},
		{"an existing file", "etc/passwd", "etc/passwd", Create},
		{"an existing directory", "etc", "etc", Create},
		{"the root", "/", "", MkdirAll},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, err := tt.create(root, tt.path, 0o755)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, tt.want); got != want {
				t.Errorf("%s became %s, want %s", tt.path, got, want)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(dir, "../escape")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("created outside the root: %v", err)
	}
}

func TestCreateErrors(t *testing.T) {
	_, root := tree(t)
	for _, tt := range []struct {
		path   string
		create func(int, string, uint32) (int, error)
		want   error
	}{
		{"loop/x", MkdirAll, unix.ELOOP},
		{"loop", Create, unix.ELOOP},
		{"secret/x", MkdirAll, unix.ENOTDIR},
		{"secret", MkdirAll, unix.ENOTDIR},
	} {
		fd, err := tt.create(root, tt.path, 0o755)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: descriptor %d, error %v, want %v", tt.path, fd, err, tt.want)
		}
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	_, root := tree(t)
	before := openFiles(t)
	for range 3 {
		for _, path := range []string{"a/b/c/d", "dangling/x", "loop/x", "secret/x", "../../q"} {
			if fd, err := MkdirAll(root, path, 0o755); err == nil {
				unix.Close(fd)
			}
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
