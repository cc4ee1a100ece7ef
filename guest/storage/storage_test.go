package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/machine/device"
)

// TestMain gives the tests a mount namespace of their own.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	if os.Getenv("STORAGE_TEST_NAMESPACE") == "" {
		os.Exit(reexec())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// reexec runs the tests again in a new mount namespace and returns their exit
// status.
func reexec() int {
	process, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), "STORAGE_TEST_NAMESPACE=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS},
	})
	if err != nil {
		panic(err)
	}
	state, err := process.Wait()
	if err != nil {
		panic(err)
	}
	return state.ExitCode()
}

// fstype returns the type of file system at path, as statfs(2) has it.
func fstype(t *testing.T, path string) int64 {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Type
}

func mounts(t *testing.T, below string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(table), " "+below+"/")
}

func newManager(t *testing.T) (*Manager, string) {
	root := t.TempDir()
	t.Cleanup(func() {
		if n := mounts(t, root); n != 0 {
			t.Errorf("%d mounts are left", n)
		}
	})
	return NewManager(root, device.NewFinder(0)), root
}

func shm(point string, options ...string) *agentpb.Storage {
	return &agentpb.Storage{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", Options: options, MountPoint: point}
}

func TestEphemeralIsATmpfsOfTheSize(t *testing.T) {
	m, root := newManager(t)
	point := filepath.Join(root, "a/b/shm")
	set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(point, "noexec", "nosuid", "nodev", "mode=1777", "size=65536")})
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(point, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Type != unix.TMPFS_MAGIC || stat.Blocks*uint64(stat.Bsize) != 65536 || stat.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("statfs: %+v", stat)
	}
	if info, err := os.Stat(point); err != nil || info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for range 2 {
		if err := set.Unmount(); err != nil {
			t.Error(err)
		}
	}
}

func TestBindTakesFilesAndDirectories(t *testing.T) {
	m, root := newManager(t)
	source := t.TempDir()
	if err := os.WriteFile(source+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := m.Mount(t.Context(), []*agentpb.Storage{
		{Driver: "bind", Source: source, Options: []string{"rbind", "ro"}, MountPoint: root + "/dir"},
		{Driver: "bind", Source: source + "/file", MountPoint: root + "/f/file"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/dir/file", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write below a read-only bind: %v", err)
	}
	if got, err := os.ReadFile(root + "/f/file"); err != nil || string(got) != "x" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := set.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestLocalIsADirectoryOfTheModeAndGroup(t *testing.T) {
	m, root := newManager(t)
	set, err := m.Mount(t.Context(), []*agentpb.Storage{{
		Driver: "local", Options: []string{"mode=0700"}, MountPoint: root + "/x/local", FsGroup: &agentpb.FSGroup{GroupId: 1234},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(root+"/x/local", &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Mode&0o7777 != 0o2770 || stat.Gid != 1234 {
		t.Errorf("mode %o, group %d", stat.Mode, stat.Gid)
	}
	if err := set.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestAGroupCanBeAnOption(t *testing.T) {
	m, root := newManager(t)
	for i, tt := range []struct {
		storage *agentpb.Storage
		mode    uint32
	}{
		{&agentpb.Storage{Driver: "local", Options: []string{"fsgid=77", "mode=0777"}}, 0o2777},
		{&agentpb.Storage{Driver: "local", Options: []string{"mode=0700", "fsGroup=77"}}, 0o2700},
		{&agentpb.Storage{Driver: "ephemeral", Options: []string{"fsgid=77", "size=64k", "mode=0750"}}, 0o2750},
	} {
		tt.storage.MountPoint = filepath.Join(root, strconv.Itoa(i))
		set, err := m.Mount(t.Context(), []*agentpb.Storage{tt.storage})
		if err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(tt.storage.MountPoint, &stat); err != nil || stat.Gid != 77 || stat.Mode&0o7777 != tt.mode {
			t.Errorf("%v: group %d, mode %o, %v", tt.storage.Options, stat.Gid, stat.Mode, err)
		}
		if err := set.Unmount(); err != nil {
			t.Error(err)
		}
		for _, option := range []string{"fsgid=", "fsgid=x", "fsGroup=-1", "fsgid=4294967295", "fsgid=4294967296"} {
			var invalid *InvalidError
			s := &agentpb.Storage{Driver: tt.storage.Driver, Options: []string{option}, MountPoint: tt.storage.MountPoint}
			if _, err := m.Mount(t.Context(), []*agentpb.Storage{s}); !errors.As(err, &invalid) || !strings.Contains(err.Error(), option) {
				t.Errorf("%s: %v", option, err)
			}
		}
	}
}

func TestSharedStoragesStayForThePod(t *testing.T) {
	m, root := newManager(t)
	shared := shm(root + "/shared")
	shared.Shared = true
	mount := func() *Set {
		t.Helper()
		set, err := m.Mount(t.Context(), []*agentpb.Storage{shared})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	is := func(what string, want int) {
		t.Helper()
		if got := mounts(t, root); got != want {
			t.Errorf("%s: %d mounts, want %d", what, got, want)
		}
	}
	one, two := mount(), mount()
	if err := one.Unmount(); err != nil { // its container was not made after all
		t.Error(err)
	}
	is("one of two gone", 1)
	for range 2 {
		if err := two.Release(); err != nil {
			t.Error(err)
		}
	}
	is("released", 1)
	for range 2 {
		if err := mount().Release(); err != nil {
			t.Error(err)
		}
	}
	is("released again", 1)
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	is("closed", 0)
	if err := mount().Unmount(); err != nil {
		t.Error(err)
	}
	is("rolled back", 0)
}

func TestAFailureUndoesWhatCameBefore(t *testing.T) {
	m, root := newManager(t)
	_, err := m.Mount(t.Context(), []*agentpb.Storage{
		shm(root + "/one"),
		shm(root + "/two"),
		{Driver: "bind", Source: "/nonexistent", MountPoint: root + "/three"},
	})
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "storages[2]") {
		t.Errorf("Mount: %v", err)
	}
	if len(m.mounted) != 0 {
		t.Errorf("still known: %v", m.mounted)
	}
}

func TestUsersOfOneMountPointAreCounted(t *testing.T) {
	m, root := newManager(t)
	point := root + "/shared"
	var sets []*Set
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(point)})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			sets = append(sets, set)
			mu.Unlock()
		})
	}
	group.Wait()
	for i, set := range sets {
		if n := mounts(t, root); n != 1 {
			t.Errorf("%d mounts before release %d, want 1", n, i)
		}
		if err := set.Unmount(); err != nil {
			t.Error(err)
		}
	}
	// Gone, it can be made anew, differently.
	set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(point, "size=4096")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), []*agentpb.Storage{shm(point)}); err == nil || !strings.Contains(err.Error(), point) {
		t.Errorf("another storage on the same mount point: %v", err)
	}
	if err := set.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestMountAndUnmountRace(t *testing.T) {
	m, root := newManager(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50 {
				set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(root + "/race")})
				if err != nil {
					t.Error(err)
					return
				}
				if got := fstype(t, root+"/race"); got != unix.TMPFS_MAGIC {
					t.Errorf("file system type %x", got)
				}
				if err := set.Unmount(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestSenselessStoragesAreNamed(t *testing.T) {
	m, root := newManager(t)
	for _, tt := range []struct {
		name    string
		storage *agentpb.Storage
		want    string
	}{
		{"nothing", nil, "entry"},
		{"no driver", &agentpb.Storage{MountPoint: root + "/x"}, `driver ""`},
		{"unknown driver", &agentpb.Storage{Driver: "floppy", MountPoint: root + "/x"}, `driver "floppy"`},
		{"encryption", &agentpb.Storage{Driver: "blk", DriverOptions: []string{"encryption_key=ephemeral"}, MountPoint: root + "/x"}, "confidential data hub"},
		{"no source", &agentpb.Storage{Driver: "blk", Fstype: "ext4", MountPoint: root + "/x"}, `source ""`},
		{"wrong PCI path", &agentpb.Storage{Driver: "blk", Source: "02/99", Fstype: "ext4", MountPoint: root + "/x"}, `source "02/99"`},
		{"wrong SCSI address", &agentpb.Storage{Driver: "scsi", Source: "02", Fstype: "ext4", MountPoint: root + "/x"}, `source "02"`},
		{"no node", &agentpb.Storage{Driver: "nvdimm", Source: "pmem0", Fstype: "ext4", MountPoint: root + "/x"}, `source "pmem0"`},
		{"a node elsewhere", &agentpb.Storage{Driver: "blk", Source: "/dev/../etc/passwd", Fstype: "ext4", MountPoint: root + "/x"}, "source"},
		{"no file system", &agentpb.Storage{Driver: "blk", Source: "02/01", MountPoint: root + "/x"}, `fstype ""`},
		{"no lower layers", &agentpb.Storage{Driver: "overlayfs", Options: []string{"upperdir=/a", "workdir=/b"}, MountPoint: root + "/x"}, "lowerdir="},
		{"half of an upper layer", &agentpb.Storage{Driver: "overlayfs", Options: []string{"lowerdir=/", "upperdir=/b"}, MountPoint: root + "/x"}, "workdir="},
		{"two upper layers", &agentpb.Storage{Driver: "overlayfs", Options: []string{"lowerdir=/", "upperdir=/b", "workdir=/c", optionReadWrite}, MountPoint: root + "/x"}, "workdir="},
		{"an unknown option of upstream's kind", &agentpb.Storage{Driver: "overlayfs", Options: []string{"lowerdir=/", "io.katacontainers.fs-opt.other"}, MountPoint: root + "/x"}, "io.katacontainers.fs-opt.other"},
		{"an unknown policy", &agentpb.Storage{Driver: "local", MountPoint: root + "/x", FsGroup: &agentpb.FSGroup{GroupChangePolicy: 7}}, `fs_group.group_change_policy "7"`},
		{"an upper layer alone", &agentpb.Storage{Driver: "erofs.multi-layer", Source: "02", Fstype: "ext4", MountPoint: root + "/x"}, "without lower ones"},
		{"a group on layers", &agentpb.Storage{Driver: "erofs.multi-layer", Source: "02", MountPoint: root + "/x", FsGroup: &agentpb.FSGroup{GroupId: 5}}, `fs_group "5"`},
		{"driver options", &agentpb.Storage{Driver: "local", DriverOptions: []string{"a=b"}, MountPoint: root + "/x"}, `driver_options "a=b"`},
		{"no mount point", shm(""), `mount_point ""`},
		{"mount point elsewhere", shm("/etc"), `mount_point "/etc"`},
		{"mount point above", shm(root + "/../x"), "mount_point"},
		{"the root itself", shm(root + "/"), "mount_point"},
		{"mount point with a zero byte", shm(root + "/a\x00b"), "mount_point"},
		{"wrong file system", &agentpb.Storage{Driver: "ephemeral", Fstype: "ext4", MountPoint: root + "/x"}, `fstype "ext4"`},
		{"no tag", &agentpb.Storage{Driver: "virtio-fs", Fstype: "virtiofs", MountPoint: root + "/x"}, `source ""`},
		{"relative source", &agentpb.Storage{Driver: "bind", Source: "a", MountPoint: root + "/x"}, `source "a"`},
		{"bad mode", &agentpb.Storage{Driver: "local", Options: []string{"mode=9"}, MountPoint: root + "/x"}, `option "mode=9"`},
		{"group on a share", &agentpb.Storage{Driver: "virtio-fs", Source: "t", MountPoint: root + "/x", FsGroup: &agentpb.FSGroup{GroupId: 5}}, `fs_group "5"`},
	} {
		_, err := m.Mount(t.Context(), []*agentpb.Storage{tt.storage})
		var invalid *InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestAnOptionTheFileSystemRefusesIsNamed(t *testing.T) {
	m, root := newManager(t)
	if _, err := m.Mount(t.Context(), []*agentpb.Storage{shm(root+"/x", "colour=red")}); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("Mount: %v", err)
	}
}

func TestSymbolicLinksDoNotLeadOutOfTheRoot(t *testing.T) {
	m, root := newManager(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, root+"/link"); err != nil {
		t.Fatal(err)
	}
	set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(root + "/link/x")})
	if err == nil {
		defer func() { _ = set.Unmount() }()
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made outside the root: %v", entries)
	}
	if mounts(t, outside) != 0 {
		t.Error("mounted outside the root")
	}
}

func TestWaitingForAnotherMountHonoursTheContext(t *testing.T) {
	m, root := newManager(t)
	entry, first, err := m.enter(t.Context(), &job{Storage: shm(root + "/slow")})
	if err != nil || !first {
		t.Fatal(entry, first, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Mount(ctx, []*agentpb.Storage{shm(root + "/slow")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Mount: %v", err)
	}
}

func TestSomebodyElsesGivingUpIsNoFailure(t *testing.T) {
	m, root := newManager(t)
	entry, _, err := m.enter(t.Context(), &job{Storage: shm(root + "/slow")})
	if err != nil {
		t.Fatal(err)
	}
	mounted := make(chan error, 1)
	go func() {
		set, err := m.Mount(t.Context(), []*agentpb.Storage{shm(root + "/slow")})
		mounted <- errors.Join(err, set.Unmount())
	}()
	for users := 0; users < 2; runtime.Gosched() { // the other one waits
		m.mu.Lock()
		users = entry.users
		m.mu.Unlock()
	}
	entry.err = context.Canceled
	close(entry.ready)
	if err := m.leave(entry); err != nil {
		t.Error(err)
	}
	if err := <-mounted; err != nil {
		t.Error(err)
	}
}
