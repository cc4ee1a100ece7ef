package journal

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests mount, make interfaces and cgroups: they need root, as the shim
// does. What they mount lies in namespaces of their own.

// mountedHere mounts a tmpfs on a new folder of this process's namespace and has
// it unmounted at the end.
func mountedHere(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func folder(t *testing.T, path ...string) string {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func newMount(t *testing.T, target string) Mount {
	t.Helper()
	m, err := NewMount(target)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func releases(t *testing.T, e Entry) {
	t.Helper()
	for range 2 { // a second time there is nothing to do
		if err := e.release(t.Context()); err != nil {
			t.Fatalf("release %s: %v", e, err)
		}
	}
}

func TestAMountIsReleasedDownToWhatWasThere(t *testing.T) {
	top := folder(t, t.TempDir(), "top")
	mountedHere(t, top)
	below := file(t, filepath.Join(top, "below"))
	m := newMount(t, top)
	releases(t, m) // it was never made
	for range 3 {
		mountedHere(t, top)
	}
	open, err := os.Create(filepath.Join(top, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	releases(t, m)
	if !exists(below) {
		t.Error("what was mounted there before is gone")
	}
}

func TestAMountWhoseTargetDidNotExistIsReleased(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "a", "b")
	m := newMount(t, target)
	releases(t, m)
	mountedHere(t, folder(t, target))
	inside := file(t, filepath.Join(target, "x"))
	releases(t, m)
	if exists(inside) {
		t.Error("it is still mounted")
	}
}

// inOwnNamespace starts a process that mounts a tmpfs on target in a namespace of
// its own, and returns when it has; end ends it.
func inOwnNamespace(t *testing.T, target string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `mount --make-rprivate / && mount -t tmpfs test "$0" && echo done && exec sleep 600`, target)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	if n, err := out.Read(make([]byte, 5)); n != 5 {
		t.Fatalf("the namespace was not made: %v", err)
	}
	return cmd.Process.Pid, end
}

func TestAMountOfAnotherNamespaceIsReleasedThere(t *testing.T) {
	target := t.TempDir()
	m := newMount(t, target)
	pid, end := inOwnNamespace(t, target)
	ns, err := namespaceAt(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if err != nil {
		t.Fatal(err)
	}
	mounted := func() bool {
		b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
		return strings.Contains(string(b), " "+target+" ")
	}
	// In another namespace the mounts below have other numbers: what counts is
	// the one that was there when the entry was made.
	m.Namespace = ns
	if err := ns.do(t.Context(), func() (err error) { m.Over, err = mountID(filepath.Dir(target)); return err }); err != nil {
		t.Fatal(err)
	}
	if !mounted() {
		t.Fatal("it is not mounted")
	}
	releases(t, m)
	if mounted() {
		t.Error("it is still mounted")
	}
	end()
	releases(t, m) // the namespace is gone
}

func TestNothingIsRemovedThroughAMount(t *testing.T) {
	for name, mount := range map[string]func(t *testing.T, volume, dir string){
		"a folder": func(t *testing.T, volume, dir string) { bind(t, volume, folder(t, dir, "a", "volume")) },
		"a file": func(t *testing.T, volume, dir string) {
			bind(t, filepath.Join(volume, "data"), file(t, filepath.Join(folder(t, dir, "a"), "data")))
		},
		"the folder itself": func(t *testing.T, volume, dir string) { bind(t, volume, dir) },
		"a symbolic link to it": func(t *testing.T, volume, dir string) {
			if err := os.Symlink(volume, filepath.Join(folder(t, dir, "a"), "link")); err != nil {
				t.Fatal(err)
			}
			bind(t, volume, folder(t, dir, "b"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, volume := t.TempDir(), t.TempDir()
			data := file(t, filepath.Join(volume, "data"))
			j := claim(t, root, "test", "/b")
			if name == "the folder itself" {
				dir := folder(t, root, "other")
				mount(t, volume, dir)
				if err := (Directory{dir}).release(t.Context()); err == nil {
					t.Error("a mount point was removed")
				}
			} else {
				mount(t, volume, j.Dir())
				if err := j.Remove(); !errors.Is(err, ErrMounted) {
					t.Errorf("removal gave %v", err)
				}
				// The journal is as good as before.
				add(t, j, Socket{Path: "/s"}, Plain)
			}
			if b, err := os.ReadFile(data); err != nil || string(b) != "precious" {
				t.Errorf("the volume has lost its file: %q, %v", b, err)
			}
		})
	}
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
}

func TestADirectoryGoesWithWhatIsInIt(t *testing.T) {
	dir, outside := folder(t, t.TempDir(), "d"), t.TempDir()
	kept := file(t, filepath.Join(outside, "kept"))
	file(t, filepath.Join(folder(t, dir, "a", "b"), "c"))
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for n := range 600 {
		file(t, filepath.Join(dir, strconv.Itoa(n)))
	}
	releases(t, Directory{dir})
	if exists(dir) || !exists(kept) {
		t.Errorf("the directory is there: %v; what a link points to: %v", exists(dir), exists(kept))
	}
}

func TestATapIsReleasedAndNothingElse(t *testing.T) {
	ns := filepath.Join(t.TempDir(), "net")
	entry, err := NewNetns(ns)
	if err != nil {
		t.Fatal(err)
	}
	releases(t, entry)
	file(t, ns)
	cmd := exec.Command("unshare", "-n", "sh", "-c", `mount --bind /proc/self/ns/net "$0" && ip link add eth9 type bridge && ip tuntap add tap9 mode tap && ip link set lo up`, ns)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(ns, unix.MNT_DETACH) })
	links := func() string {
		out, err := exec.Command("nsenter", "--net="+ns, "ip", "-o", "link").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if !strings.Contains(links(), "tap9") {
		t.Fatalf("there is no tap: %s", links())
	}
	releases(t, Tap{Name: "tap9", Netns: ns})
	if strings.Contains(links(), "tap9") {
		t.Error("the tap is there")
	}
	if err := (Tap{Name: "eth9", Netns: ns}).release(t.Context()); err == nil || !strings.Contains(links(), "eth9") {
		t.Errorf("an interface that is no tap: %v", err)
	}
	if _, err := net.InterfaceByName("tap9"); err == nil {
		t.Error("the test has made a tap of the host's")
	}
	releases(t, entry)
	if exists(ns) {
		t.Error("the namespace's file is there")
	}
	releases(t, Tap{Name: "tap9", Netns: ns}) // it went with its namespace
}

func TestACgroupIsReleasedWithWhatIsInIt(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	path, err := os.MkdirTemp(root, "kata-journal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeCgroups(path) })
	inner := folder(t, path, "a", "b")
	p := sleeper(t)
	id := identify(t, p)
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(id.PID)), 0); err != nil {
		t.Fatal(err)
	}
	releases(t, Cgroup{Path: path})
	if id.Alive() || exists(path) {
		t.Errorf("alive: %v, there: %v", id.Alive(), exists(path))
	}
	plain := folder(t, t.TempDir(), "plain")
	kept := file(t, filepath.Join(plain, "x"))
	if err := (Cgroup{Path: plain}).release(t.Context()); err == nil || !exists(kept) || exists(filepath.Join(plain, "cgroup.kill")) {
		t.Errorf("a directory that is no cgroup: %v", err)
	}
}

func TestCgroupDirsAreRemovedAsFarAsTheyAreEmpty(t *testing.T) {
	top := t.TempDir()
	parent := folder(t, top, "parent")
	c := CgroupDirs{Paths: []string{parent, folder(t, parent, "c1")}}
	other := folder(t, parent, "c2")
	releases(t, c)
	if exists(filepath.Join(parent, "c1")) || !exists(other) {
		t.Error("the parent that another is in must stay, the container's own go")
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	releases(t, c)
	if exists(parent) {
		t.Error("the empty parent is left")
	}
}
