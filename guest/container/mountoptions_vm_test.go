//go:build vmtest

package container

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/storage/mount"
)

// mountedTree returns a directory with a tmpfs on it and another one below, in
// sub, both mounted with the options; both have a file.
func mountedTree(t *testing.T, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, dir + "/sub"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := mount.Mount("tmpfs", "tmpfs", d, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
		write(t, d+"/file", "content\n", 0o644)
	}
	return dir
}

// showMounts writes, for what is mounted below /v, the place, the options of the
// mount, its optional fields, and the options of its file system.
const showMounts = `while read id parent dev root point options rest; do case $point in /v*) echo $point $options $rest;; esac; done </proc/self/mountinfo`

// Every option of every mount, recursive or not, and its negation, as the kernel
// shows them.
func TestMountOptionsInTheKernel(t *testing.T) {
	rt := testRuntime(t)
	plain := mountedTree(t)
	strict := mountedTree(t, "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow")
	const all = "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"
	spec, want := defaultSpec(makeRootfs(t), showMounts), make(map[string]string)
	for i, tt := range []struct {
		source, options, top, sub string
	}{
		{plain, "rbind", "rw,relatime", "rw,relatime"},
		{plain, "bind", "rw,relatime", ""},
		{plain, "rbind,ro", "ro,relatime", "rw,relatime"},
		{plain, "rbind,rro", "ro,relatime", "ro,relatime"},
		{plain, "rbind,rro,rw", "ro,relatime", "ro,relatime"},
		{plain, "rbind,ro,rrw", "rw,relatime", "rw,relatime"},
		{plain, "rbind,rro,rrw", "rw,relatime", "rw,relatime"},
		{plain, "rbind,nosuid,nodev,noexec", "rw,nosuid,nodev,noexec,relatime", "rw,relatime"},
		{plain, "rbind,rnosuid,rnodev,rnoexec", "rw,nosuid,nodev,noexec,relatime", "rw,nosuid,nodev,noexec,relatime"},
		{plain, "rbind,noatime", "rw,noatime", "rw,relatime"},
		{plain, "rbind,rnoatime,rnodiratime", "rw,noatime,nodiratime", "rw,noatime,nodiratime"},
		{plain, "rbind,rstrictatime", "rw", "rw"},
		{plain, "rbind,rnorelatime", "rw", "rw"},
		{plain, "rbind,nosymfollow", "rw,relatime,nosymfollow", "rw,relatime"},
		{plain, "rbind,rnosymfollow", "rw,relatime,nosymfollow", "rw,relatime,nosymfollow"},
		{plain, "rbind,silent,loud,iversion,noiversion,defaults,remount", "rw,relatime", "rw,relatime"},
		{plain, "rbind,sync,async,dirsync,lazytime,nolazytime,mand,nomand", "rw,relatime", "rw,relatime"},
		{strict, "rbind", all, all},
		{strict, "rbind,suid,dev,exec,atime,diratime,symfollow", "rw,relatime", all},
		{strict, "rbind,rsuid,rdev,rexec,ratime,rdiratime,rsymfollow", "rw,relatime", "rw,relatime"},
		{strict, "rbind,rrelatime", "rw,nosuid,nodev,noexec,nodiratime,nosymfollow,relatime", "rw,nosuid,nodev,noexec,nodiratime,nosymfollow,relatime"},
		{strict, "rbind,rnostrictatime", "rw,nosuid,nodev,noexec,nodiratime,nosymfollow,relatime", "rw,nosuid,nodev,noexec,nodiratime,nosymfollow,relatime"},
		{strict, "rbind,strictatime,nostrictatime", "rw,nosuid,nodev,noexec,nodiratime,nosymfollow,relatime", all},
	} {
		place := "/v/" + strconv.Itoa(i)
		addMount(&ocipb.Mount{Destination: place, Source: tt.source, Options: strings.Split(tt.options, ",")})(spec)
		want[place] = sortedOptions(tt.top)
		if tt.sub != "" {
			want[place+"/sub"] = sortedOptions(tt.sub)
		}
	}
	got := make(map[string]string)
	for line := range strings.Lines(run(t, rt, spec).output) {
		fields := strings.Fields(line)
		got[fields[0]] = sortedOptions(fields[1])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("by the index of the options (-want +got):\n%s", diff)
	}
}

func sortedOptions(s string) string {
	options := strings.Split(s, ",")
	slices.Sort(options)
	return strings.Join(options, ",")
}

// Options that the kernel takes of every file system, and attributes of a mount
// that is no bind mount.
func TestOptionsOfAFileSystem(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct{ options, mount, fs string }{
		{"sync,dirsync,lazytime,mand,silent", "rw,relatime", "rw,sync,dirsync,mand,lazytime"},
		{"sync,async,lazytime,nolazytime,mand,nomand", "rw,relatime", "rw"},
		{"ro,noatime,nosuid,nodev,noexec,nodiratime,nosymfollow", "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow", "rw"},
		{"rro,rnoatime", "ro,noatime", "rw"},
		{"noatime,rstrictatime", "rw", "rw"},
		{"ro,rw,noexec,exec", "rw,relatime", "rw"},
	} {
		t.Run(tt.options, func(t *testing.T) {
			m := &ocipb.Mount{Destination: "/v", Type: "tmpfs", Options: strings.Split(tt.options, ",")}
			got := strings.Fields(run(t, rt, in(makeRootfs(t), showMounts, addMount(m))).output)
			if len(got) != 6 || sortedOptions(got[1]) != sortedOptions(tt.mount) {
				t.Fatalf("got %q, want %s", got, tt.mount)
			}
			var fs []string
			for option := range strings.SplitSeq(got[5], ",") {
				if !strings.Contains(option, "=") && option != "inode64" && option != "inode32" {
					fs = append(fs, option)
				}
			}
			if got := sortedOptions(strings.Join(fs, ",")); got != sortedOptions(tt.fs) {
				t.Errorf("file system %s, want %s", got, tt.fs)
			}
		})
	}
}

func makeShared(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

// What a container mounts in a volume is seen outside when root, volume and what
// is below the volume are shared, and only then; what is mounted outside is seen
// in a container that is a slave.
func TestPropagation(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		root, volume    string
		outside, inside bool // whether a mount goes from inside to outside, and back
		shared          bool
	}{
		{"rshared", "rshared", true, true, true},
		{"shared", "rshared", true, true, true},
		{"rshared", "rslave", false, true, true},
		{"rshared", "rprivate", false, false, true},
		{"rslave", "rshared", false, true, true},
		{"", "rslave", false, true, true},
		{"", "rprivate", false, false, true},
		{"private", "rprivate", false, false, true},
		{"rshared", "rshared", false, false, false},
	} {
		t.Run(tt.root+" and "+tt.volume, func(t *testing.T) {
			dir := mountedTree(t)
			if tt.shared {
				makeShared(t, dir)
			}
			for _, d := range []string{"/in", "/out"} {
				if err := os.Mkdir(dir+d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			spec := in(makeRootfs(t), "mount -t tmpfs tmpfs /v/in && touch /v/in/made && echo ready && exec sleep 100000", privileged)
			spec.Linux.RootfsPropagation = tt.root
			addMount(&ocipb.Mount{Destination: "/v", Type: "bind", Source: dir, Options: []string{"rbind", tt.volume}})(spec)
			c, out := started(t, rt, spec)
			out.waitFor(t, "ready")
			if _, err := os.Stat(dir + "/in/made"); (err == nil) != tt.outside {
				t.Errorf("outside: %v", err)
			}
			if err := mount.Mount("tmpfs", "tmpfs", dir+"/out", nil); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(dir+"/out", unix.MNT_DETACH) }()
			write(t, dir+"/out/made", "", 0o644)
			got, err := execIn(t, c, execProcess("test -f /v/out/made"))
			if err != nil || (got.status == 0) != tt.inside {
				t.Errorf("inside: %+v, %v", got, err)
			}
			_ = unix.Unmount(dir+"/in", unix.MNT_DETACH)
		})
	}
}

// The root of the container has the propagation that the spec says, as the
// validation tests of the OCI runtime specification look at it.
func TestPropagationOfTheRoot(t *testing.T) {
	rt := testRuntime(t)
	const script = "mkdir /a /b; mount --rbind / /a 2>&1 | grep -o Invalid; mount -t tmpfs tmpfs /b && touch /b/x && ls /a/b"
	for propagation, want := range map[string]string{
		"shared": "x\n", "rshared": "x\n", "private": "", "rprivate": "", "slave": "", "rslave": "", "": "",
		"unbindable": "Invalid\n", "runbindable": "Invalid\n",
	} {
		spec := in(makeRootfs(t), script, privileged)
		spec.Linux.RootfsPropagation = propagation
		got := run(t, rt, spec).output
		got, _, _ = strings.Cut(got, "ls:")
		if got != want {
			t.Errorf("%s: %q, want %q", propagation, got, want)
		}
	}
}

// ext4 returns a directory on an ext4 file system of its own.
func ext4(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	file, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	mke2fs, err := theReaper().Start(func() (int, error) {
		files := []uintptr{null.Fd(), null.Fd(), 2}
		return syscall.ForkExec(busybox(t), []string{"mke2fs", "-F", image}, &syscall.ProcAttr{Files: files})
	})
	if err != nil {
		t.Fatal(err)
	}
	if <-mke2fs.Done(); mke2fs.Exit().Status != 0 {
		t.Fatalf("mke2fs ended with %d", mke2fs.Exit().Status)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	device := "/dev/loop" + string(rune('0'+number))
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := mount.Mount("ext4", device, dir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		if loop, err := os.Open(device); err == nil {
			_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
			loop.Close()
		}
	})
	return dir
}

func TestIDMappedMounts(t *testing.T) {
	rt := testRuntime(t)
	dir := ext4(t)
	for name, id := range map[string]int{"root": 0, "user": 1000} {
		write(t, dir+"/"+name, "", 0o644)
		if err := os.Chown(dir+"/"+name, id, id); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, script, want string
		mount              *ocipb.Mount
		users              bool
	}{
		{"mappings of the mount", "cd /v; stat -c '%n %u:%g' root user", "root 5000:6000\nuser 6000:7000\n", &ocipb.Mount{
			Options: []string{"bind", "idmap"}, UIDMappings: mapped(5000, 65536), GIDMappings: mapped(6000, 65536),
		}, false},
		{"without the option, and recursive", "cd /v; stat -c '%n %u:%g' root user", "root 5000:5000\nuser 6000:6000\n", &ocipb.Mount{
			Options: []string{"rbind"}, UIDMappings: mapped(5000, 65536), GIDMappings: mapped(5000, 65536),
		}, false},
		{"what is written is mapped back", "touch /v/new && stat -c %u /v/new; stat -c %u /plain/new", "0\n0\n", &ocipb.Mount{
			Options: []string{"rbind", "ridmap"}, UIDMappings: mapped(0, 65536), GIDMappings: mapped(0, 65536),
		}, false},
		{"mappings of the container", "cd /v; stat -c '%n %u:%g' root user; touch /v/mine && stat -c %u /v/mine /plain/mine", "root 0:0\nuser 1000:1000\n0\n65534\n", &ocipb.Mount{
			Options: []string{"rbind", "ridmap"},
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.mount.Destination, tt.mount.Type, tt.mount.Source = "/v", "bind", dir
			spec := in(makeRootfs(t), tt.script, addMount(tt.mount))
			addMount(&ocipb.Mount{Destination: "/plain", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})(spec)
			if tt.users {
				inUsers(t)(spec)
			}
			if got := run(t, rt, spec); got.output != tt.want {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
	t.Run("a file system that cannot", func(t *testing.T) {
		spec := in(makeRootfs(t), "true", addMount(&ocipb.Mount{
			Destination: "/v", Type: "bind", Source: mountedTree(t), Options: []string{"idmap"}, UIDMappings: mapped(5000, 10), GIDMappings: mapped(5000, 10),
		}))
		if _, _, err := create(t, rt, spec); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "mount /v: the file system of /") {
			t.Errorf("error %v", err)
		}
	})
}
