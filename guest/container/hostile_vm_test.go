//go:build vmtest

package container

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/storage/mount"
)

// guestBinary returns this program on a file system as the guest's root is: read
// only as a whole.
func guestBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := mount.Mount("tmpfs", "tmpfs", dir, []string{"mode=0755"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/agent", text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return dir + "/agent"
}

// allPowers are the powers of a privileged container.
func allPowers(p *ocipb.Process) {
	var all []string
	for _, name := range strings.Fields("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_ADMIN IPC_OWNER " +
		"SYS_CHROOT SYS_PTRACE SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_RAWIO MKNOD SETFCAP") {
		all = append(all, "CAP_"+name)
	}
	p.Capabilities = &ocipb.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all}
	p.NoNewPrivileges = false
}

// The image's command is a script for /proc/self/exe, or a process is executed
// as that: at that moment it is the agent's binary, which then runs as the
// container's, and must not become writable by any way (CVE-2019-5736).
func TestTheAgentsBinaryInAContainer(t *testing.T) {
	exe := guestBinary(t)
	before, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	rt := NewRuntime(Config{Exe: exe, Reaper: theReaper(), CgroupRoot: testRuntime(t).config.CgroupRoot})
	rootfs := makeRootfs(t)
	write(t, rootfs+"/script", "#!/proc/self/exe\n", 0o755)
	write(t, rootfs+"/init", "#!/proc/self/exe init\n", 0o755)
	// What a process that is the agent's binary finds out; see asTheAgentsBinary.
	const tried = "agent: open to write: read-only file system\n" +
		"agent: remount: invalid argument\n" +
		"sh: can't create /proc/self/fd/10: Read-only file system\nsh: end\n"
	for _, tt := range []struct {
		name string
		args []string
		want result
	}{
		{"a script", []string{"/script"}, result{0, tried}},
		{"a script with the agent's own argument", []string{"/init"}, result{1, ""}},
		{"the file itself", []string{"/proc/self/exe"}, result{0, tried}},
		{"by a descriptor", []string{"/proc/self/fd/3"}, result{}},
		{"by the thread", []string{"/proc/thread-self/exe"}, result{0, tried}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := defaultSpec(rootfs, "")
			spec.Process.Args, spec.Process.Env = tt.args, append(spec.Process.Env, "GODEBUG=", hostile+"=1")
			allPowers(spec.Process)
			c, out, err := create(t, rt, spec)
			if err == nil {
				err = c.Start(testContext(t))
			}
			if tt.want == (result{}) {
				if err == nil {
					t.Error("it was executed")
				}
			} else if err != nil {
				t.Error(err)
			} else if got := (result{wait(t, c.Init()), out.String()}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			sleeping := sleeper(t, rt)
			p := execProcess("")
			p.Args, p.Env = tt.args, spec.Process.Env
			if !strings.HasPrefix(tt.args[0], "/proc") {
				p.Args = []string{"/proc/self/exe", tt.args[0]}
			}
			allPowers(p)
			got, err := execIn(t, sleeping, p)
			if tt.want == (result{}) {
				if err == nil {
					t.Error("exec: it was executed")
				}
			} else if want := (result{0, tried}); err != nil || got != want {
				t.Errorf("exec: %+v, %v; want %+v", got, err, want)
			}
		})
	}
	after, err := os.ReadFile(exe)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the binary has changed (%v)", err)
	}
}

// A container whose processes watch for those of execs finds no way to the
// agent's binary by them either.
func TestWatchingForExecs(t *testing.T) {
	exe := guestBinary(t)
	rt := NewRuntime(Config{Exe: exe, Reaper: theReaper(), CgroupRoot: testRuntime(t).config.CgroupRoot})
	// Without CAP_SYS_PTRACE, as containers are.
	c, out := started(t, rt, defaultSpec(makeRootfs(t), `echo ready
while :; do for p in /proc/[0-9]*; do
	case $p in /proc/1) continue;; esac
	(exec 4<$p/exe) 2>/dev/null && case "$(readlink $p/exe 2>/dev/null)" in */agent) echo "found $p";; esac
done; done`))
	out.waitFor(t, "ready")
	for range 10 {
		if got, err := execIn(t, c, execProcess("true")); err != nil || got.status != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "ready\n" {
		t.Errorf("got %q", got)
	}
}

// The kin of CVE-2025-31133: what is mounted over and written to by name is
// something else in the image (CVE-2025-52565, CVE-2025-52881).
func TestHostileTargets(t *testing.T) {
	rt := testRuntime(t)
	secret := t.TempDir() + "/secret"
	write(t, secret, "secret\n", 0o600)
	noDev := func(s *ocipb.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m *ocipb.Mount) bool { return m.Destination == "/dev" })
	}
	terminal := func(s *ocipb.Spec) {
		noDev(s)
		s.Process.Terminal = true
	}
	for _, tt := range []struct {
		name, script, want string // want is a part of the error if it starts with !
		prepare            func(t *testing.T, rootfs string)
		change             func(*ocipb.Spec)
	}{
		{"/dev/console is a link to a file of the image", "head -c 4 /etc/passwd; grep -c ' /etc/passwd ' /proc/self/mountinfo", "root0\r\n", link("/etc/passwd", "/dev/console"), terminal},
		{"/dev/console is a link to a file of procfs", "grep -c ' /proc/sys/' /proc/self/mountinfo", "0\r\n", link("/proc/sys/kernel/core_pattern", "/dev/console"), terminal},
		{"/dev/console is a link outside", "ls /dev/console", "/dev/console\r\n", link(secret, "/dev/console"), terminal},
		{"/dev/console is a directory", "true", "!mount /dev/console", directory("/dev/console"), terminal},
		{"/dev is a link into procfs", "true", "!/proc", link("/proc/self", "/dev"), func(s *ocipb.Spec) {
			noDev(s)
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m *ocipb.Mount) bool { return strings.HasPrefix(m.Destination, "/dev/") })
		}},
		{"/dev/pts is a link into procfs", "true", "!leads into /proc", link("/proc/sys", "/dev/pts"), noDev},
		{"/dev/null is a link to a file of procfs, and paths are masked", "true", "!something else is there", link("/proc/sysrq-trigger", "/dev/null"), noDev},
		{"a masked path is a link to what must not be covered", "stat -c %F /etc/passwd; cat /proc/mounts | grep -c /etc/passwd", "regular empty file\n0\n", func(t *testing.T, r string) {
			link("/dev/null", "/etc/masked")(t, r)
			write(t, r+"/etc/passwd", "", 0o644)
		}, func(s *ocipb.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/masked") }},
		{"/proc/sys is not the kernel's when parameters are set", "cat /fake/kernel/msgmax; cat /proc/sys/kernel/msgmax", "untouched\n4242\n", func(t *testing.T, r string) {
			directory("/fake/kernel")(t, r)
			write(t, r+"/fake/kernel/msgmax", "untouched\n", 0o666)
			link("/fake", "/sys-link")(t, r)
		}, func(s *ocipb.Spec) { s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"} }},
		{"/proc is missing when the score is set", "ls /", "bin\ndev\netc\nrun\nsecret\nsys\ntmp\n", nil, func(s *ocipb.Spec) {
			s.Process.OOMScoreAdj, s.Process.OOMScoreAdjUnset = 100, false
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m *ocipb.Mount) bool { return m.Destination == "/proc" })
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rootfs := makeRootfs(t)
			if tt.prepare != nil {
				tt.prepare(t, rootfs)
			}
			c, out, err := create(t, rt, in(rootfs, tt.script, tt.change))
			if err == nil {
				err = c.Start(testContext(t))
			}
			if part, ok := strings.CutPrefix(tt.want, "!"); ok {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v does not hold %q", err, part)
				}
			} else if err != nil {
				t.Error(err)
			} else if got := finalOutput(t, c, out); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if text, err := os.ReadFile(secret); err != nil || string(text) != "secret\n" {
				t.Errorf("outside there is now %q, %v", text, err)
			}
		})
	}
}

// finalOutput is what a container wrote, to its terminal if it has one.
func finalOutput(t *testing.T, c *Container, out *output) string {
	t.Helper()
	console := c.Init().Console()
	if console == nil {
		wait(t, c.Init())
		return out.String()
	}
	defer console.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(console) // to EIO, which is its end
	wait(t, c.Init())
	return text.String()
}

func link(target, name string) func(*testing.T, string) {
	return func(t *testing.T, rootfs string) {
		t.Helper()
		_ = os.MkdirAll(rootfs+name[:strings.LastIndexByte(name, '/')], 0o755)
		if err := os.Symlink(target, rootfs+name); err != nil {
			t.Fatal(err)
		}
	}
}

func directory(name string) func(*testing.T, string) {
	return func(t *testing.T, rootfs string) {
		t.Helper()
		if err := os.MkdirAll(rootfs+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing of the agent's is open in a process, whatever its kind
// (CVE-2024-21626).
func TestDescriptorsOfProcesses(t *testing.T) {
	rt := testRuntime(t)
	secret, err := os.Open("/") // without O_CLOEXEC it would be found
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	const script = "ls /proc/self/fd | tr '\\n' ' '"
	for name, change := range map[string]func(*ocipb.Spec){"plain": func(*ocipb.Spec) {}, "users": inUsers(t)} {
		c := sleeper(t, rt, change)
		got, err := execIn(t, c, execProcess(script))
		if err != nil || got.output != "0 1 2 3 " { // 3 is ls's own
			t.Errorf("%s: exec: %+v, %v", name, got, err)
		}
		if got := run(t, rt, in(makeRootfs(t), script, change)); got.output != "0 1 2 3 " {
			t.Errorf("%s: %+v", name, got)
		}
		for fd := range 8 {
			p := execProcess("pwd")
			p.Cwd = fmt.Sprintf("/proc/self/fd/%d/", fd)
			if got, err := execIn(t, c, p); err == nil {
				t.Errorf("%s: working directory %s: %+v", name, p.Cwd, got)
			}
		}
	}
}
