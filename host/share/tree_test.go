package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api"
)

func newTree(t *testing.T) *Tree {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	tree, err := NewTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // idempotent
			if err := tree.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if strings.Contains(mounts(), dir) {
			t.Errorf("mounts are left:\n%s", mounts())
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("directory is left: %v", err)
		}
	})
	return tree
}

// newRootfs returns a mounted file system with a file, and another file system
// mounted inside.
func newRootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(target string) {
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("test", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount(dir)
	write(t, filepath.Join(dir, "file"), "outer")
	mount(filepath.Join(dir, "inner"))
	write(t, filepath.Join(dir, "inner/file"), "inner")
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func wantWrite(t *testing.T, path string, want error) {
	t.Helper()
	err := os.WriteFile(path, []byte("written"), 0o644)
	if !errors.Is(err, want) {
		t.Errorf("write %s: %v, want %v", path, err, want)
	}
}

// exported turns a path of the guest into the one that virtiofsd serves.
func exported(t *testing.T, tree *Tree, guest string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(guest, api.GuestShare+"/")
	if !ok {
		t.Fatalf("guest path %q", guest)
	}
	return filepath.Join(tree.Export(), rest)
}

func TestTreeRootfs(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	guest, undo, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := api.GuestShare + "/c1/rootfs"; guest != want {
		t.Errorf("guest path %q, want %q", guest, want)
	}
	at := exported(t, tree, guest)
	wantContent(t, at+"/file", "outer")
	wantContent(t, at+"/inner/file", "inner")
	wantWrite(t, at+"/new", nil)
	wantContent(t, source+"/new", "written")
	wantWrite(t, at+"/inner/new", nil)
	wantWrite(t, tree.Export()+"/top", syscall.EROFS)
	wantWrite(t, tree.Export()+"/c1/beside", syscall.EROFS)
	for range 2 {
		if err := undo(); err != nil {
			t.Errorf("undo: %v", err)
		}
	}
	if entries, err := os.ReadDir(tree.Export()); err != nil || len(entries) != 0 {
		t.Errorf("after undo: %v, %v", entries, err)
	}
	wantContent(t, source+"/inner/file", "inner")
}

func TestTreeReadOnlyRootfs(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	guest, _, err := tree.AddRootfs("c1", source, true)
	if err != nil {
		t.Fatal(err)
	}
	at := exported(t, tree, guest)
	wantContent(t, at+"/inner/file", "inner")
	wantWrite(t, at+"/new", syscall.EROFS)
	wantWrite(t, at+"/inner/new", syscall.EROFS)
	wantWrite(t, source+"/new", nil) // the source keeps its mode
	wantWrite(t, source+"/inner/new", nil)
}

func TestTreeBinds(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	outside := t.TempDir()
	if err := os.Symlink(source, outside+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(outside+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		source              string
		readonly, recursive bool
		guest               string
		check               func(t *testing.T, at string)
	}{
		"a directory": {source, false, true, "mounts/0-" + filepath.Base(source), func(t *testing.T, at string) {
			wantContent(t, at+"/inner/file", "inner")
			wantWrite(t, at+"/inner/other", nil)
		}},
		"a directory without what is below": {source, false, false, "mounts/0-" + filepath.Base(source), func(t *testing.T, at string) {
			wantContent(t, at+"/file", "outer")
			if _, err := os.Stat(at + "/inner/file"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the inner mount is there: %v", err)
			}
		}},
		"a read-only directory": {source, true, true, "mounts/0-" + filepath.Base(source), func(t *testing.T, at string) {
			wantWrite(t, at+"/x", syscall.EROFS)
			wantWrite(t, at+"/inner/x", syscall.EROFS)
		}},
		"a file": {source + "/file", false, false, "mounts/0-file", func(t *testing.T, at string) {
			wantContent(t, at, "outer")
			wantWrite(t, at, nil)
			wantContent(t, source+"/file", "written")
			write(t, source+"/file", "outer")
		}},
		"a read-only file": {source + "/file", true, false, "mounts/0-file", func(t *testing.T, at string) {
			wantContent(t, at, "outer")
			wantWrite(t, at, syscall.EROFS)
		}},
		"a link to a directory": {outside + "/link", false, true, "mounts/0-link", func(t *testing.T, at string) {
			wantContent(t, at+"/file", "outer")
		}},
		"a fifo": {outside + "/fifo", false, false, "mounts/0-fifo", func(t *testing.T, at string) {
			if info, err := os.Stat(at); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
				t.Errorf("stat: %v, %v", info, err)
			}
		}},
		"a path that ends in a slash": {source + "/", false, true, "mounts/0-" + filepath.Base(source), func(t *testing.T, at string) {
			wantContent(t, at+"/file", "outer")
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cid := strings.ReplaceAll(name, " ", "-")
			guest, undo, err := tree.AddBind(cid, 0, test.source, test.readonly, test.recursive)
			if err != nil {
				t.Fatal(err)
			}
			if want := api.GuestShare + "/" + cid + "/" + test.guest; guest != want {
				t.Errorf("guest path %q, want %q", guest, want)
			}
			test.check(t, exported(t, tree, guest))
			if err := undo(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTreeErrorsNameThePath(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	if _, _, err := tree.AddBind("c1", 1, source, false, false); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		run  func() error
		want []string
	}{
		"no rootfs": {func() error { _, _, err := tree.AddRootfs("c2", "/nowhere/rootfs", false); return err },
			[]string{"/nowhere/rootfs", "no such file"}},
		"rootfs is a file": {func() error { _, _, err := tree.AddRootfs("c2", source+"/file", false); return err },
			[]string{source + "/file", "not a directory"}},
		"no source": {func() error { _, _, err := tree.AddBind("c2", 0, "/nowhere/volume", false, false); return err },
			[]string{"/nowhere/volume", "no such file"}},
		"number taken": {func() error { _, _, err := tree.AddBind("c1", 1, source, false, false); return err },
			[]string{source, "file exists"}},
		"negative number": {func() error { _, _, err := tree.AddBind("c1", -1, source, false, false); return err },
			[]string{"-1"}},
		"id is a path":  {func() error { _, _, err := tree.AddRootfs("../x", source, false); return err }, []string{`"../x"`}},
		"id is dots":    {func() error { _, _, err := tree.AddRootfs("..", source, false); return err }, []string{`".."`}},
		"id is empty":   {func() error { _, _, err := tree.AddRootfs("", source, false); return err }, []string{`""`}},
		"remove by dot": {func() error { return tree.RemoveContainer(".") }, []string{`"."`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.run()
			if err == nil {
				t.Fatal("no error")
			}
			for _, text := range test.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not hold %q", err, text)
				}
			}
		})
	}
	// What did not work left nothing.
	if entries, err := os.ReadDir(tree.Export()); err != nil || len(entries) != 1 {
		t.Errorf("export holds %v, %v", entries, err)
	}
}

func TestNewTreeHalfwayLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	before := mounts()
	write(t, dir+"/shared", "in the way")
	if _, err := NewTree(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("NewTree over a file: %v", err)
	}
	if _, err := NewTree(dir + "/a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NewTree without a parent: %v", err)
	}
	if after := mounts(); after != before {
		t.Errorf("mounts are left:\n%s", after)
	}
}

func TestTreeRemoveContainer(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	_, undo, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, _, err := tree.AddBind("c1", n, source, n == 1, true); err != nil {
			t.Fatal(err)
		}
	}
	kept, _, err := tree.AddRootfs("c2", source, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tree.RemoveContainer("c1"); err != nil {
			t.Errorf("RemoveContainer: %v", err)
		}
	}
	if err := undo(); err != nil {
		t.Errorf("undo after RemoveContainer: %v", err)
	}
	if _, err := os.Stat(tree.Export() + "/c1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("c1 is left: %v", err)
	}
	wantContent(t, exported(t, tree, kept)+"/file", "outer")

	// The id can be used again, under a name that the guest has not cached.
	again, undo, err := tree.AddRootfs("c1", source, true)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, exported(t, tree, again)+"/file", "outer")
	if want := api.GuestShare + "/c1~1/rootfs"; again != want {
		t.Errorf("guest path %q, want %q", again, want)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
}

func TestTreeRemovesWhatIsInUse(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	guest, _, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	inUse, err := os.Open(exported(t, tree, guest) + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer inUse.Close()
	if err := tree.RemoveContainer("c1"); err != nil {
		t.Error(err)
	}
	if strings.Contains(mounts(), "c1") {
		t.Errorf("mounts are left:\n%s", mounts())
	}
}

func TestTreeUseAfterClose(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	_, undo, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil {
		t.Errorf("undo: %v", err)
	}
	if err := tree.RemoveContainer("c1"); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	if _, _, err := tree.AddRootfs("c1", source, false); !errors.Is(err, os.ErrClosed) {
		t.Errorf("AddRootfs: %v", err)
	}
}

// What the host mounts or unmounts in a source later is not the guest's.
func TestTreeIsApartFromItsSources(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	if err := unix.Mount("", source, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	guest, _, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	later := source + "/later"
	if err := os.Mkdir(later, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", later, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	write(t, later+"/secret", "x")
	if _, err := os.Stat(exported(t, tree, guest) + "/later/secret"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a later mount reached the guest: %v", err)
	}
	if err := unix.Unmount(later, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(source+"/inner", 0); err != nil {
		t.Fatal(err)
	}
	wantContent(t, exported(t, tree, guest)+"/inner/file", "inner")
	if err := unix.Mount("test", source+"/inner", "tmpfs", 0, ""); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

// A virtiofsd with its own mount namespace, started before, sees what is added
// and no longer holds what is removed.
func TestTreeReachesAnOlderMountNamespace(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	daemon := exec.Command("unshare", "--mount", "--propagation", "slave", "cat")
	stdin, err := daemon.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := daemon.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := stdin.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // the namespace is there
		t.Fatal(err)
	}
	seen := fmt.Sprintf("/proc/%d/root", daemon.Process.Pid)

	guest, _, err := tree.AddRootfs("c1", source, true)
	if err != nil {
		t.Fatal(err)
	}
	at := seen + exported(t, tree, guest)
	wantContent(t, at+"/inner/file", "inner")
	wantWrite(t, at+"/new", syscall.EROFS)
	wantWrite(t, at+"/inner/new", syscall.EROFS)
	if err := tree.RemoveContainer("c1"); err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", daemon.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(info), "c1") {
		t.Errorf("the daemon still holds:\n%s", info)
	}
}

func TestTreeConcurrently(t *testing.T) {
	tree, source := newTree(t), newRootfs(t)
	var group sync.WaitGroup
	for i := range 8 {
		cid := fmt.Sprintf("c%d", i)
		group.Go(func() {
			for range 5 {
				if _, _, err := tree.AddRootfs(cid, source, false); err != nil {
					t.Error(err)
				}
				if _, _, err := tree.AddBind(cid, 0, source, true, true); err != nil {
					t.Error(err)
				}
				if err := tree.RemoveContainer(cid); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}
