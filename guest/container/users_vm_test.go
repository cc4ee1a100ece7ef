//go:build vmtest

package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata/api/ocipb"
)

// The container's IDs 0 to 65535 are the guest's from here on.
const firstID = 100000

func mapped(first, size uint32) []*ocipb.LinuxIDMapping {
	return []*ocipb.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: size}}
}

// inUsers gives a container a user namespace and its root file system to the
// root of that.
func inUsers(t *testing.T) func(*ocipb.Spec) {
	return func(s *ocipb.Spec) {
		t.Helper()
		s.Linux.Namespaces = append(s.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings, s.Linux.GIDMappings = mapped(firstID, 65536), mapped(firstID, 65536)
		chownTree(t, s.Root.Path, firstID)
	}
}

func chownTree(t *testing.T, dir string, id int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, id, id)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUserNamespace(t *testing.T) {
	rt := testRuntime(t)
	volume := t.TempDir()
	write(t, volume+"/file", "content", 0o644)
	for _, tt := range []struct {
		name, script, want string
		change             func(*ocipb.Spec)
	}{
		{"the mapping", "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -g; cat /proc/self/setgroups", " 0 100000 65536\n 0 100000 65536\n0\n0\nallow\n", nil},
		{"the mounts of a default spec", "(" + mountScript + ") | sort", "cgroup2 /sys/fs/cgroup\ndevpts /dev/pts\nmqueue /dev/mqueue\nproc /proc\nsysfs /sys\ntmpfs /dev\n" +
			"tmpfs /dev/full\ntmpfs /dev/null\ntmpfs /dev/random\ntmpfs /dev/shm\ntmpfs /dev/tty\ntmpfs /dev/urandom\ntmpfs /dev/zero\ntmpfs /run\n", func(s *ocipb.Spec) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}},
		{"files are the container's", "touch /new && stat -c '%u:%g' /new /bin/busybox; chown 5:6 /new && stat -c '%u:%g' /new", "0:0\n0:0\n5:6\n", nil},
		{"it has power in its namespaces", "mount -t tmpfs tmpfs /tmp && hostname inside && hostname", "inside\n", func(s *ocipb.Spec) {
			privileged(s)
		}},
		{"devices", "stat -c '%t:%T %a %u:%g' /dev/null /dev/mine; echo x >/dev/null && head -c 2 /dev/zero | wc -c; mknod /dev/x c 1 3 2>&1 | grep -o 'not permitted'; stat -c '%F %u' /dev/pipe", "1:3 666 0:0\nfe:10 640 5:6\n2\nnot permitted\nfifo 7\n", func(s *ocipb.Spec) {
			s.Linux.Devices = []*ocipb.LinuxDevice{
				{Path: "/dev/mine", Type: "b", Major: 254, Minor: 16, FileMode: 0o640, UID: 5, GID: 6},
				{Path: "/dev/pipe", Type: "p", UID: 7},
			}
		}},
		{"a user", "id -u; id -g; id -G; echo x >/dev/stdout", "1000\n1001\n1001 7 8\nx\n", func(s *ocipb.Spec) {
			s.Process.User = &ocipb.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}}
		}},
		{"what only the real root may set", "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; cat /proc/sys/kernel/msgmax /proc/sys/kernel/domainname /proc/sys/user/max_ipc_namespaces", "-500\n600000\n700000\n4242\nexample\n17\n", func(s *ocipb.Spec) {
			s.Process.OOMScoreAdj, s.Process.OOMScoreAdjUnset = -500, false
			s.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 600000, Hard: 700000}}
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242", "kernel.domainname": "example", "user.max_ipc_namespaces": "17"}
		}},
		{"a volume that the user cannot reach by its path", "cat /v/file; stat -c %u /v/file", "content65534\n", addMount(&ocipb.Mount{Destination: "/v", Type: "bind", Source: volume, Options: []string{"rbind", "ro"}})},
		{"masked and read-only paths", "wc -c </proc/keys; ls /proc/acpi; echo 1 >/proc/sys/kernel/panic", "0\nsh: can't create /proc/sys/kernel/panic: Read-only file system\n", nil},
		{"the limits that it was born with", "ulimit -n", "", nil},
		{"a read-only root", "touch /x 2>&1 | grep -o 'Read-only.*'; touch /run/x && echo ok", "Read-only file system\nok\n", func(s *ocipb.Spec) { s.Root.Readonly = true }},
		{"copy-up", "stat -c '%a %u:%g' /secret /secret/x; cat /secret/x", "700 0:0\n600 5:5\ntext\n", func(s *ocipb.Spec) {
			write(t, s.Root.Path+"/secret/x", "text\n", 0o600)
			if err := os.Chown(s.Root.Path+"/secret/x", firstID+5, firstID+5); err != nil {
				t.Fatal(err)
			}
			addMount(&ocipb.Mount{Destination: "/secret", Type: "tmpfs", Options: []string{"tmpcopyup"}})(s)
		}},
		{"priorities", "cut -d' ' -f19,41 /proc/self/stat", "-5 3\n", func(s *ocipb.Spec) {
			s.Process.Scheduler = &ocipb.LinuxScheduler{Policy: "SCHED_BATCH", Nice: -5}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Chmod(filepath.Dir(volume), 0o700); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == "" {
				want = run(t, rt, defaultSpec(makeRootfs(t), tt.script)).output
			}
			spec := in(makeRootfs(t), tt.script, inUsers(t))
			if tt.change != nil {
				tt.change(spec)
			}
			got := run(t, rt, spec)
			if got.output != want {
				t.Errorf("got %+v, want %q", got, want)
			}
		})
	}
}

// A container in a user namespace that cannot be made leaves nothing.
func TestNothingIsLeftOfUsers(t *testing.T) {
	rt := testRuntime(t)
	run(t, rt, in(makeRootfs(t), "true", inUsers(t))) // what is opened once
	before := openFiles(t)
	for want, change := range map[string]func(*ocipb.Spec){
		"root file system":      func(s *ocipb.Spec) { s.Root.Path = "/no/such" },
		"mount /x":              addMount(&ocipb.Mount{Destination: "/x", Type: "bind", Source: "/no/such"}),
		"mount /y":              addMount(&ocipb.Mount{Destination: "/y", Type: "nosuchfs"}),
		"linux.devices[0] /x":   func(s *ocipb.Spec) { s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/x", Type: "c", Major: -1}} },
		"user 70000 is not":     func(s *ocipb.Spec) { s.Process.User = &ocipb.User{UID: 70000} },
		"device /x: user 70000": func(s *ocipb.Spec) { s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/x", Type: "c", UID: 70000}} },
		"sysctl kernel.sem":     func(s *ocipb.Spec) { s.Linux.Sysctl = map[string]string{"kernel.sem": "nonsense"} },
		"mount /z": addMount(&ocipb.Mount{
			Destination: "/z", Type: "bind", Source: mountedTree(t), Options: []string{"idmap"}, UIDMappings: mapped(1, 1), GIDMappings: mapped(1, 1),
		}),
		"nosuch": func(s *ocipb.Spec) { s.Process.Args = []string{"nosuch"} },
	} {
		spec := in(makeRootfs(t), "true", inUsers(t))
		change(spec)
		_, out, err := create(t, rt, spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not hold %s", err, want)
		}
		_ = out.String() // closes its end
	}
	if after := openFiles(t); len(after) > len(before) {
		t.Errorf("open before %q, after %q", before, after)
	}
}

func TestTerminalInAUserNamespace(t *testing.T) {
	rt := testRuntime(t)
	spec := in(makeRootfs(t), "tty; stat -c '%u %g' $(tty); echo x >/dev/console", inUsers(t))
	spec.Process.Terminal = true
	spec.Process.User = &ocipb.User{UID: 1000}
	c, out := started(t, rt, spec)
	if got := finalOutput(t, c, out); !strings.HasSuffix(got, "\r\n1000 5\r\nx\r\n") {
		t.Errorf("got %q", got)
	}
}

func TestExecInAUserNamespace(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, inUsers(t))
	p := execProcess("for p in 1 self; do readlink /proc/$p/ns/user; done | sort -u | wc -l; id -u; id -G; ulimit -n; echo x >/dev/stdout; ls /proc/self/fd | wc -l")
	p.User = &ocipb.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{9}}
	p.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 600000, Hard: 700000}}
	got, err := execIn(t, c, p)
	if want := "1\n1000\n1000 9\n600000\nx\n4\n"; err != nil || got.output != want {
		t.Errorf("got %+v, %v; want %q", got, err, want)
	}
	p.User = &ocipb.User{UID: 70000}
	if _, err := execIn(t, c, p); err == nil || !strings.Contains(err.Error(), "process.user.uid: user 70000 is not mapped") {
		t.Errorf("error %v", err)
	}
}

func TestJoinAUserNamespace(t *testing.T) {
	rt := testRuntime(t)
	a := sleeper(t, rt, inUsers(t))
	path := func(n string) string { return fmt.Sprintf("/proc/%d/ns/%s", a.Init().PID(), n) }
	ids := func(names ...string) string {
		text := ""
		for _, n := range names {
			id, err := os.Readlink(path(n))
			if err != nil {
				t.Fatal(err)
			}
			text += id + "\n"
		}
		return text
	}
	t.Run("with new namespaces", func(t *testing.T) {
		spec := in(makeRootfs(t), "readlink /proc/self/ns/user; echo $$; mount -t tmpfs tmpfs /tmp && echo mounted", inUsers(t))
		privileged(spec)
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
		spec.Linux.Namespaces[6].Path = path("user")
		if got, want := run(t, rt, spec).output, ids("user")+"1\nmounted\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("with all others of that container", func(t *testing.T) {
		spec := in(makeRootfs(t), "for n in user pid ipc uts cgroup; do readlink /proc/self/ns/$n; done", inUsers(t))
		spec.Linux.Namespaces = []*ocipb.LinuxNamespace{
			{Type: "user", Path: path("user")}, {Type: "pid", Path: path("pid")}, {Type: "ipc", Path: path("ipc")},
			{Type: "uts", Path: path("uts")}, {Type: "cgroup", Path: path("cgroup")}, {Type: "mount"}, {Type: "network", Path: path("net")},
		}
		if got, want := run(t, rt, spec).output, ids("user", "pid", "ipc", "uts", "cgroup"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("with its mounts too", func(t *testing.T) {
		spec := defaultSpec("/nowhere", "for n in user mnt; do readlink /proc/self/ns/$n; done")
		spec.Linux.Namespaces = []*ocipb.LinuxNamespace{{Type: "user", Path: path("user")}, {Type: "mount", Path: path("mnt")}, {Type: "pid", Path: path("pid")}}
		if got, want := run(t, rt, spec).output, ids("user", "mnt"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("with other mappings than it has", func(t *testing.T) {
		spec := in(makeRootfs(t), "true", inUsers(t))
		spec.Linux.Namespaces[6].Path = path("user")
		spec.Linux.UIDMappings[0].Size = 5
		if _, _, err := create(t, rt, spec); err == nil || !strings.Contains(err.Error(), "not those of the user namespace that is joined") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("of the container whose pids are shared", func(t *testing.T) {
		out := newOutput(t)
		spec := in(makeRootfs(t), "for n in user pid; do readlink /proc/self/ns/$n; done; ls -d /proc/1", inUsers(t))
		c, err := createSpec(testContext(t), rt, "sharer", spec, Stdio{Stdout: out.write, Stderr: out.write}, Options{JoinPID: a})
		out.write.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Destroy(testContext(t)); err != nil {
				t.Error(err)
			}
		}()
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), ids("user", "pid")+"/proc/1\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestTimeNamespace(t *testing.T) {
	rt := testRuntime(t)
	const day = 86400
	inTime := func(s *ocipb.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "time"})
		s.Linux.TimeOffsets = map[string]*ocipb.LinuxTimeOffset{"boottime": {Secs: 100 * day, Nanosecs: 5}, "monotonic": {Secs: day}}
	}
	const script = "tr -s ' ' ' ' </proc/self/timens_offsets; test $(cut -d. -f1 /proc/uptime) -gt 8640000 && echo later"
	const want = "monotonic 86400 0\nboottime 8640000 5\nlater\n"
	if got := run(t, rt, in(makeRootfs(t), script, inTime)); got.output != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	t.Run("with users", func(t *testing.T) {
		spec := in(makeRootfs(t), script, inTime)
		inUsers(t)(spec)
		if got := run(t, rt, spec); got.output != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	})
	c := sleeper(t, rt, inTime)
	t.Run("exec", func(t *testing.T) {
		got, err := execIn(t, c, execProcess(script+"; for p in 1 self; do readlink /proc/$p/ns/time; done | sort -u | wc -l"))
		if err != nil || got.output != want+"1\n" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("joined", func(t *testing.T) {
		spec := defaultSpec(makeRootfs(t), script)
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "time", Path: fmt.Sprintf("/proc/%d/ns/time", c.Init().PID())})
		if got := run(t, rt, spec); got.output != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	})
}
