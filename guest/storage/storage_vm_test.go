//go:build vmtest

package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/typespb"
)

// disk returns the node of a loop device with an ext2 file system.
func disk(t *testing.T) string {
	t.Helper()
	image, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-F", image.Name()).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(control)
	number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	node := "/dev/loop" + strconv.Itoa(number)
	loop, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(loop, unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(loop, unix.LOOP_CLR_FD, 0)
		unix.Close(loop)
	})
	return node
}

// busy reports whether somebody holds a device, a mount say.
func busy(t *testing.T, node string) bool {
	t.Helper()
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return false
}

func mountAll(t *testing.T, m *Manager, storages ...*agentpb.Storage) *Set {
	t.Helper()
	set, err := m.Mount(t.Context(), storages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return set
}

func unmount(t *testing.T, set *Set) {
	t.Helper()
	if err := set.Unmount(); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestDisksAreMountedAndLetGo(t *testing.T) {
	m, root := newManager(t)
	node := disk(t)
	set := mountAll(t, m, &agentpb.Storage{Driver: "blk", Source: node, Fstype: "ext4", Options: []string{"noexec"}, MountPoint: root + "/a/b"})
	write(t, root+"/a/b/file", "kept")
	if !busy(t, node) {
		t.Error("a mounted disk is not busy")
	}
	unmount(t, set)
	if busy(t, node) {
		t.Error("the disk is still busy")
	}
	if _, err := os.Stat(root + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directories that were made are left: %v", err)
	}
	set = mountAll(t, m, &agentpb.Storage{Driver: "mmioblk", Source: node, Fstype: "ext4", Options: []string{"ro"}, MountPoint: root + "/c"})
	if got := read(t, root+"/c/file"); got != "kept" {
		t.Errorf("the file has %q", got)
	}
	if err := os.WriteFile(root+"/c/file", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only disk: %v", err)
	}
	unmount(t, set)
}

func TestTheNodeOfADiskCanBeHad(t *testing.T) {
	m, root := newManager(t)
	node := disk(t)
	mountAll(t, m, &agentpb.Storage{Driver: "blk", Source: node, Fstype: "bind", MountPoint: root + "/node"})
	var want, got unix.Stat_t
	if err := errors.Join(unix.Stat(node, &want), unix.Stat(root+"/node", &got)); err != nil {
		t.Fatal(err)
	}
	if got.Mode&unix.S_IFMT != unix.S_IFBLK || got.Rdev != want.Rdev {
		t.Errorf("mode %o, device %x, want device %x", got.Mode, got.Rdev, want.Rdev)
	}
}

func TestAGroupGetsAllFilesButNotThroughLinks(t *testing.T) {
	m, root := newManager(t)
	node := disk(t)
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, "")
	if err := os.Chmod(outside, 0o600); err != nil {
		t.Fatal(err)
	}
	set := mountAll(t, m, &agentpb.Storage{Driver: "blk", Source: node, Fstype: "ext4", MountPoint: root + "/v"})
	write(t, root+"/v/dir/sub/file", "")
	if err := errors.Join(os.Chmod(root+"/v/dir/sub/file", 0o4755), os.Symlink(outside, root+"/v/dir/link"), os.Symlink("/", root+"/v/slash")); err != nil {
		t.Fatal(err)
	}
	unmount(t, set)

	storage := func(group uint32, policy typespb.FSGroupChangePolicy) *agentpb.Storage {
		return &agentpb.Storage{
			Driver: "blk", Source: node, Fstype: "ext4", MountPoint: root + "/v",
			FsGroup: &agentpb.FSGroup{GroupId: group, GroupChangePolicy: policy},
		}
	}
	check := func(what, name string, group, mode uint32) {
		t.Helper()
		var stat unix.Stat_t
		if err := unix.Lstat(name, &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Gid != group || mode != 0 && stat.Mode&0o7777 != mode {
			t.Errorf("%s: %s has group %d and mode %o, want %d and %o", what, name, stat.Gid, stat.Mode&0o7777, group, mode)
		}
	}
	const always, onMismatch = typespb.FSGroupChangePolicy_Always, typespb.FSGroupChangePolicy_OnRootMismatch
	set = mountAll(t, m, storage(4321, onMismatch))
	check("mismatch", root+"/v", 4321, 0o2775)
	check("mismatch", root+"/v/dir/sub", 4321, 0o2775)
	check("mismatch", root+"/v/dir/sub/file", 4321, 0o775) // set-id bits go
	check("mismatch", root+"/v/dir/link", 4321, 0)
	check("mismatch", outside, 0, 0o600)
	check("mismatch", "/", 0, 0)
	if err := os.Chown(root+"/v/dir", 0, 77); err != nil {
		t.Fatal(err)
	}
	unmount(t, set)

	set = mountAll(t, m, storage(4321, onMismatch))
	check("no mismatch at the root", root+"/v/dir", 77, 0)
	unmount(t, set)

	set = mountAll(t, m, storage(4321, always))
	check("always", root+"/v/dir", 4321, 0)
	unmount(t, set)
}

func TestHugePagesAreReservedAndGivenBack(t *testing.T) {
	const file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	m, root := newManager(t)
	pages := func() string { return strings.TrimSpace(read(t, file)) }
	before := pages()
	huge := func(point string, options ...string) *agentpb.Storage {
		return &agentpb.Storage{Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs", Options: options, MountPoint: root + point}
	}
	one := mountAll(t, m, huge("/one", "pagesize=2097152,size=4194304"))
	two := mountAll(t, m, huge("/two", "pagesize=2M", "size=6M", "mode=0700"))
	if got := fstype(t, root+"/two"); got != unix.HUGETLBFS_MAGIC {
		t.Errorf("file system type %x", got)
	}
	if got := pages(); got != "5" {
		t.Errorf("%s pages, want 5 and %s", got, before)
	}
	unmount(t, one)
	if got := pages(); got != "3" {
		t.Errorf("%s pages, want 3", got)
	}
	unmount(t, two)
	// More than the machine has.
	if _, err := m.Mount(t.Context(), []*agentpb.Storage{huge("/three", "pagesize=2097152", "size=1099511627776")}); err == nil || !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "524288 huge pages") {
		t.Errorf("too many: %v", err)
	}
	for _, options := range [][]string{{}, {"size=4194304"}, {"pagesize=2097152"}, {"pagesize=2097152", "size=4096"}, {"pagesize=3145728", "size=3145728"}, {"pagesize=x", "size=1"}, {"pagesize=0", "size=1"}} {
		var invalid *InvalidError
		if _, err := m.Mount(t.Context(), []*agentpb.Storage{huge("/four", options...)}); !errors.As(err, &invalid) {
			t.Errorf("%v: %v", options, err)
		}
	}
	if got := pages(); got != before {
		t.Errorf("%s pages in the end, want %s", got, before)
	}
}

func TestOverlays(t *testing.T) {
	m, root := newManager(t)
	base := t.TempDir()
	var lower []string
	for i := range 60 { // more than fsconfig(2) takes in one value
		dir := filepath.Join(base, fmt.Sprintf("layer-of-an-image-with-a-long-name-%d", i))
		write(t, dir+"/"+strconv.Itoa(i), "")
		write(t, dir+"/top", strconv.Itoa(i))
		lower = append(lower, dir)
	}
	odd := filepath.Join(base, "a,b")
	write(t, odd+"/odd", "")
	for _, tt := range []struct {
		name   string
		layers []string
		files  int
	}{{"short", lower[:2], 3}, {"long", lower, 61}, {"comma", []string{odd, lower[0]}, 3}} {
		point := root + "/" + tt.name
		set := mountAll(t, m, &agentpb.Storage{Driver: "overlayfs", Source: "overlay", Fstype: "overlay", MountPoint: point, Options: []string{"lowerdir=" + strings.Join(tt.layers, ":")}})
		entries, err := os.ReadDir(point)
		if err != nil || len(entries) != tt.files {
			t.Errorf("%s: %d files, %v, want %d", tt.name, len(entries), err, tt.files)
		}
		if got := read(t, point+"/top"); got != "0" {
			t.Errorf("%s: the top layer is %q", tt.name, got)
		}
		unmount(t, set)
	}
	for _, dir := range []string{"/upper", "/work"} {
		if err := os.Mkdir(base+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	set := mountAll(t, m, &agentpb.Storage{Driver: "overlayfs", MountPoint: root + "/rw", Options: []string{"lowerdir=" + strings.Join(lower, ":"), "upperdir=" + base + "/upper", "workdir=" + base + "/work"}})
	write(t, root+"/rw/top", "mine")
	unmount(t, set)
	if got := read(t, base+"/upper/top"); got != "mine" {
		t.Errorf("the upper layer has %q", got)
	}
	// tmpfs cannot be found on disk again: it is the container's own, for its life.
	set = mountAll(t, m, &agentpb.Storage{Driver: "overlayfs", MountPoint: root + "/box/rootfs", Options: []string{"io.katacontainers.fs-opt.overlay-rw", "lowerdir=" + lower[1] + ":" + lower[0]}})
	write(t, root+"/box/rootfs/new", "mine")
	if got := read(t, root+"/box/rootfs/top"); got != "1" {
		t.Errorf("the top layer is %q", got)
	}
	unmount(t, set)
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

// state is what a failure must leave as it was.
func state(t *testing.T, root string) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{string(table), read(t, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		all = append(all, path, fmt.Sprint(err))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, fmt.Sprintln(len(entries), "descriptors"))
	return strings.Join(all, "\n")
}

// TestNothingIsLeftWhicheverStorageFails lets each kind of storage fail, after
// each number of others that have not.
func TestNothingIsLeftWhicheverStorageFails(t *testing.T) {
	m, root := newManager(t)
	node := disk(t)
	layer := t.TempDir()
	good := []*agentpb.Storage{
		{Driver: "blk", Source: node, Fstype: "ext4", MountPoint: root + "/1/disk"},
		{Driver: "ephemeral", MountPoint: root + "/2/memory", Options: []string{"size=1M"}, FsGroup: &agentpb.FSGroup{GroupId: 9}},
		{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: root + "/2/huge", Options: []string{"pagesize=2M,size=2M"}},
		{Driver: "local", MountPoint: root + "/3/local", Options: []string{"mode=0700", "fsgid=9"}},
		{Driver: "bind", Source: "/proc/version", MountPoint: root + "/4/file"},
		{Driver: "overlayfs", MountPoint: root + "/box/rootfs", Options: []string{"io.katacontainers.fs-opt.overlay-rw", "lowerdir=" + layer}},
		{Driver: "blk", Source: node, Fstype: "bind", MountPoint: root + "/5/node"},
	}
	bad := []*agentpb.Storage{
		{Driver: "blk", Source: "/dev/nonexistent", Fstype: "ext4", MountPoint: root + "/bad/x"},
		{Driver: "blk", Source: node, Fstype: "xfs", MountPoint: root + "/bad/x"},
		{Driver: "blk", Source: node, Fstype: "ext4", MountPoint: root + "/bad/x", Options: []string{"colour=red"}},
		{Driver: "blk", Source: node, Fstype: "bind", MountPoint: root + "/bad/x", Options: []string{"size=3"}},
		{Driver: "scsi", Source: "9:9", Fstype: "ext4", MountPoint: root + "/bad/x"},
		{Driver: "nvdimm", Source: "/dev/pmem9", Fstype: "ext4", MountPoint: root + "/bad/x"},
		{Driver: "9p", Source: "nobody", MountPoint: root + "/bad/x"},
		{Driver: "virtio-fs", Source: "nobody", MountPoint: root + "/bad/x"},
		{Driver: "ephemeral", MountPoint: root + "/bad/x", Options: []string{"size=nonsense"}},
		{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: root + "/bad/x", Options: []string{"pagesize=2M", "size=1024G"}},
		{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: root + "/bad/x", Options: []string{"pagesize=2M", "size=2M", "colour=red"}},
		{Driver: "local", MountPoint: root + "/bad/x", Options: []string{"mode=0700", "fsgid=none"}},
		{Driver: "bind", Source: "/nonexistent", MountPoint: root + "/bad/x"},
		{Driver: "overlayfs", MountPoint: root + "/bad/x", Options: []string{"lowerdir=/nonexistent"}},
		{Driver: "overlayfs", MountPoint: root + "/bad/x", Options: []string{"lowerdir=/" + strings.Repeat("nonexistent/", 30)}},
		{Driver: "overlayfs", MountPoint: root + "/bad/x", Options: []string{"io.katacontainers.fs-opt.overlay-rw"}},
		{Driver: "overlayfs", MountPoint: root + "/bad/x", Options: []string{"io.katacontainers.fs-opt.overlay-rw", "lowerdir=" + layer, "colour=red"}},
		{Driver: "erofs.multi-layer", Source: node, Fstype: "erofs", MountPoint: root + "/bad/x"},
		{Driver: "local", MountPoint: "/dev/null/x"},
	}
	want := state(t, root)
	for i := range good {
		for _, b := range bad {
			storages := append(slices.Clone(good[:i]), b)
			if _, err := m.Mount(t.Context(), storages); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("storages[%d]", i)) {
				t.Errorf("%d good ones and %v: %v", i, b, err)
			}
			if got := state(t, root); got != want {
				t.Fatalf("%d good ones and %v have left:\n%s\nwant:\n%s", i, b, got, want)
			}
			if busy(t, node) {
				t.Fatalf("%d good ones and %v have left the disk busy", i, b)
			}
		}
	}
	set := mountAll(t, m, good...)
	unmount(t, set)
	if got := state(t, root); got != want {
		t.Errorf("the good ones have left:\n%s\nwant:\n%s", got, want)
	}
}
