package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
)

// in returns a spec of a container that runs script in rootfs, changed.
func in(rootfs, script string, change func(*ocipb.Spec)) *ocipb.Spec {
	spec := defaultSpec(rootfs, script)
	if change != nil {
		change(spec)
	}
	return spec
}

func addMount(m *ocipb.Mount) func(*ocipb.Spec) {
	return func(s *ocipb.Spec) { s.Mounts = append(s.Mounts, m) }
}

func TestRootFileSystem(t *testing.T) {
	rt := testRuntime(t)
	volume := t.TempDir()
	write(t, volume+"/file", "content", 0o644)
	if err := os.MkdirAll(volume+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, script, want string
		change             func(*ocipb.Spec)
	}{
		{"the root is the container's", "ls -a / | tr '\\n' ' '", ". .. bin dev etc proc run secret sys tmp ", nil},
		{"the root is writable", "echo x >/new && cat /new", "x\n", nil},
		{"a read-only root", "echo x >/new; echo y >/run/y && cat /run/y", "sh: can't create /new: Read-only file system\ny\n", func(s *ocipb.Spec) { s.Root.Readonly = true }},
		{"mount points in a read-only root", "test -d /made/for/it && echo yes", "yes\n", func(s *ocipb.Spec) {
			s.Root.Readonly = true
			s.Mounts = append(s.Mounts, &ocipb.Mount{Destination: "/made/for/it", Type: "tmpfs"})
		}},
		{"the mounts of a default spec", mountScript, "proc /proc\ntmpfs /dev\ndevpts /dev/pts\ntmpfs /dev/shm\nmqueue /dev/mqueue\nsysfs /sys\ncgroup2 /sys/fs/cgroup\ntmpfs /run\n", func(s *ocipb.Spec) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}},
		{"default devices", "cd /dev; for d in full null random tty urandom zero; do stat -c '%n %t:%T %a' $d; done", "full 1:7 666\nnull 1:3 666\nrandom 1:8 666\ntty 5:0 666\nurandom 1:9 666\nzero 1:5 666\n", nil},
		{"links in /dev", "cd /dev; for l in core fd ptmx stderr stdin stdout; do readlink $l; done", "/proc/kcore\n/proc/self/fd\npts/ptmx\n/proc/self/fd/2\n/proc/self/fd/0\n/proc/self/fd/1\n", nil},
		{"options of devpts", "grep ' /dev/pts ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E 'gid|mode'", "gid=5\nmode=620\nptmxmode=666\n", nil},
		{"sysfs is read-only", "mkdir /sys/x 2>&1 | grep -o 'Read-only.*'", "Read-only file system\n", nil},
		{"devices of the spec", "stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/sub/pipe; stat -c '%a' /dev/null", "block special file fe:10 640 5:6\nfifo 0:0 600 0:0\n600\n", func(s *ocipb.Spec) {
			s.Linux.Devices = []*ocipb.LinuxDevice{
				{Path: "/dev/mine", Type: "b", Major: 254, Minor: 16, FileMode: 0o640, UID: 5, GID: 6},
				{Path: "/dev/sub/pipe", Type: "p", FileMode: 0o600},
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: 0o600},
			}
		}},
		{"a bind mount", "cat /v/file; echo more >>/v/file; cat /v/file", "contentcontentmore\n", addMount(&ocipb.Mount{Destination: "/v", Type: "bind", Source: volume, Options: []string{"rbind"}})},
		{"a bind mount of a file, read-only", "cat /etc/v; echo x >/etc/v", "contentmore\nsh: can't create /etc/v: Read-only file system\n", addMount(&ocipb.Mount{Destination: "/etc/v", Type: "bind", Source: volume + "/file", Options: []string{"rbind", "ro"}})},
		{"a bind mount through a link of the image", "cat /real/v/file | head -c 7", "content", func(s *ocipb.Spec) {
			_ = os.Symlink("/real", s.Root.Path+"/link")
			s.Mounts = append(s.Mounts, &ocipb.Mount{Destination: "/link/v", Type: "bind", Source: volume, Options: []string{"rbind"}})
		}},
		{"tmpfs with a size", "df() { grep ' /t ' /proc/mounts; }; df | grep -o 'size=[0-9k]*'; stat -c %a /t; dd if=/dev/zero of=/t/x bs=1k count=100 2>&1 | grep -o 'No space.*'", "size=64k\n1777\nNo space left on device\n", addMount(&ocipb.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}})},
		{"tmpfs has the mode of what it covers", "stat -c %a /covered", "711\n", func(s *ocipb.Spec) {
			_ = os.Mkdir(s.Root.Path+"/covered", 0o755)
			_ = os.Chmod(s.Root.Path+"/covered", 0o711)
			addMount(&ocipb.Mount{Destination: "/covered", Type: "tmpfs"})(s)
		}},
		{"a read-only tmpfs, with mount points in it", "touch /t/x 2>&1 | grep -o 'Read-only.*'; cat /t/sub/file | head -c 7", "Read-only file system\ncontent", func(s *ocipb.Spec) {
			s.Mounts = append(s.Mounts, &ocipb.Mount{Destination: "/t", Type: "tmpfs", Options: []string{"ro"}},
				&ocipb.Mount{Destination: "/t/sub", Type: "bind", Source: volume, Options: []string{"bind"}})
		}},
		{"copy-up", "cd /etc; stat -c '%n %F %a %u' . conf conf/file conf/link conf/pipe; cat conf/file; readlink conf/link; echo x >conf/new; mount | grep -c 'on /etc '", "" +
			". directory 755 7\nconf directory 700 8\nconf/file regular file 4755 9\nconf/link symbolic link 777 0\nconf/pipe fifo 644 0\ntext\n/target\n1\n", copyUpTree},
		{"masked file and directory", "cat /etc/secret; ls /hidden; echo x >/etc/secret; cat /etc/secret; chmod 0 /etc/secret 2>&1 | grep -o 'Read-only.*'; touch /hidden/x 2>&1 | grep -o 'Read-only.*'", "Read-only file system\nRead-only file system\n", func(s *ocipb.Spec) {
			_ = os.WriteFile(s.Root.Path+"/etc/secret", []byte("secret"), 0o644)
			_ = os.MkdirAll(s.Root.Path+"/hidden/secret", 0o755)
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/secret", "/hidden", "/not/there", "/etc/secret/below")
		}},
		{"read-only path, all the way down", "touch /data/x /data/sub/x 2>&1 | grep -o 'Read-only.*'", "Read-only file system\nRead-only file system\n", func(s *ocipb.Spec) {
			s.Mounts = append(s.Mounts, &ocipb.Mount{Destination: "/data/sub", Type: "tmpfs"})
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/data", "/not/there")
		}},
		{"masked and read-only files of procfs", "wc -c </proc/version; ls /proc/tty; echo 1 >/proc/sys/kernel/panic", "0\nsh: can't create /proc/sys/kernel/panic: Read-only file system\n", func(s *ocipb.Spec) {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/version", "/proc/tty")
		}},
		{"a file of procfs may be replaced", "head -c 7 /proc/meminfo", "content", addMount(&ocipb.Mount{Destination: "/proc/meminfo", Type: "bind", Source: volume + "/file", Options: []string{"bind"}})},
		{"host name", "hostname; cat /proc/sys/kernel/domainname", "web\nexample\n", func(s *ocipb.Spec) { s.Hostname, s.Domainname = "web", "example" }},
		{"kernel parameters", "cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/queues_max", "4242\n17\n", func(s *ocipb.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242", "fs/mqueue/queues_max": "17"}
		}},
		{"/dev from outside is left alone", "ls /dev", "file\nsub\n", func(s *ocipb.Spec) {
			s.Mounts = []*ocipb.Mount{{Destination: "/dev", Type: "bind", Source: volume, Options: []string{"rbind"}}}
		}},
		{"the working directory is made", "pwd", "/made/up\n", func(s *ocipb.Spec) { s.Process.Cwd = "/made/up" }},
		{"propagation of the root", "grep ' / / ' /proc/self/mountinfo | grep -o 'shared:' || grep ' / ' /proc/self/mountinfo | head -n 1 | grep -o 'shared:'", "shared:\n", func(s *ocipb.Spec) { s.Linux.RootfsPropagation = "rshared" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, rt, in(makeRootfs(t), tt.script, tt.change)); got.output != tt.want {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
}

const mountScript = `while read d p t o; do case $p in /) ;; *) echo $t $p;; esac; done </proc/mounts`

func copyUpTree(s *ocipb.Spec) {
	etc := s.Root.Path + "/etc"
	_ = os.MkdirAll(etc+"/conf", 0o755)
	_ = writeFile(etc+"/conf/file", "text\n", 0o755)
	_ = os.Symlink("/target", etc+"/conf/link")
	_ = unix.Mkfifo(etc+"/conf/pipe", 0o644)
	_ = os.Chown(etc, 7, 0)
	_ = os.Chown(etc+"/conf", 8, 0)
	_ = os.Chown(etc+"/conf/file", 9, 0)
	_ = unix.Chmod(etc+"/conf/file", 0o4755)
	_ = unix.Chmod(etc+"/conf", 0o700)
	addMount(&ocipb.Mount{Destination: "/etc", Type: "tmpfs", Options: []string{"tmpcopyup"}})(s)
}

// Nothing that a container mounts or unmounts is seen outside.
func TestMountsStayInside(t *testing.T) {
	rt := testRuntime(t)
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	_ = sleeper(t, rt, addMount(&ocipb.Mount{Destination: "/t", Type: "tmpfs", Options: []string{"rshared"}}))
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

func TestRefusedMounts(t *testing.T) {
	rt := testRuntime(t)
	volume := t.TempDir()
	write(t, volume+"/file", "content", 0o644)
	for _, tt := range []struct {
		name  string
		mount *ocipb.Mount
		want  []string
	}{
		{"an unknown type", &ocipb.Mount{Destination: "/x", Type: "nosuchfs"}, []string{"mount /x", `"nosuchfs"`}},
		{"no type", &ocipb.Mount{Destination: "/x"}, []string{"mount /x", "no type"}},
		{"a source that is not there", &ocipb.Mount{Destination: "/x", Type: "bind", Source: "/no/such"}, []string{"mount /x", "/no/such", "no such file"}},
		{"a relative source", &ocipb.Mount{Destination: "/x", Type: "bind", Source: "rel"}, []string{"mount /x", `"rel"`}},
		{"an option of another file system", &ocipb.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"hidepid=2"}}, []string{"mount /x", "hidepid=2"}},
		{"the root", &ocipb.Mount{Destination: "/..", Type: "tmpfs"}, []string{"mount /..", "root itself"}},
		{"a directory of procfs", &ocipb.Mount{Destination: "/proc/sys", Type: "tmpfs"}, []string{"mount /proc/sys", "inside /proc"}},
		{"another file of procfs", &ocipb.Mount{Destination: "/proc/self/attr/exec", Type: "bind", Source: volume + "/file"}, []string{"inside /proc"}},
		{"a directory on a file of procfs", &ocipb.Mount{Destination: "/proc/meminfo", Type: "bind", Source: volume}, []string{"inside /proc"}},
		{"something on /proc", &ocipb.Mount{Destination: "/proc/", Type: "bind", Source: volume}, []string{"only procfs"}},
		{"tmpfs on /proc", &ocipb.Mount{Destination: "/x/../proc", Type: "tmpfs"}, []string{"only procfs"}},
		{"a file on a directory", &ocipb.Mount{Destination: "/tmp", Type: "bind", Source: volume + "/file"}, []string{"mount /tmp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := create(t, rt, in(makeRootfs(t), "true", addMount(tt.mount)))
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v does not hold %q", err, want)
				}
			}
		})
	}
}

// The image of a hostile tenant leads mounts astray by links.
func TestHostileRootFileSystem(t *testing.T) {
	rt := testRuntime(t)
	outside := t.TempDir()
	write(t, outside+"/file", "outside", 0o644)
	for _, tt := range []struct {
		name, script, want string // want is the output, or a part of the error if it starts with !
		prepare            func(rootfs string) error
		change             func(*ocipb.Spec)
	}{
		{"/proc is a link to a place in the root (CVE-2019-19921)", "true", "!not an ordinary directory", func(r string) error {
			return os.Symlink("/tmp", r+"/proc")
		}, nil},
		{"/proc is below a link", "true", "!not an ordinary directory", func(r string) error {
			return os.Symlink("/tmp", r+"/alias")
		}, func(s *ocipb.Spec) { s.Mounts[0].Destination = "/alias/proc" }},
		{"/sys is a link outside", "true", "!not an ordinary directory", func(r string) error {
			return os.Symlink(outside, r+"/sys")
		}, nil},
		{"a volume's place is a link outside (CVE-2021-30465)", "cat " + outside + "/v/x; ls " + outside, "inside\nv\n", func(r string) error {
			return os.Symlink(outside, r+"/vol")
		}, func(s *ocipb.Spec) {
			addMount(&ocipb.Mount{Destination: "/vol/v", Type: "bind", Source: volumeWith(t, "inside\n"), Options: []string{"bind"}})(s)
		}},
		{"a volume's place leads up and out", "ls /v", "x\n", func(r string) error {
			return os.Symlink("../../../../../../../../../../../v", r+"/vol")
		}, func(s *ocipb.Spec) {
			addMount(&ocipb.Mount{Destination: "/vol", Type: "bind", Source: volumeWith(t, "inside\n"), Options: []string{"bind"}})(s)
		}},
		{"a volume's place leads into procfs", "true", "!leads into /proc", func(r string) error {
			return os.Symlink("/proc/sys/kernel", r+"/vol")
		}, addMount(&ocipb.Mount{Destination: "/vol", Type: "tmpfs"})},
		{"a volume's place leads to a file of procfs that may be replaced", "true", "!leads into /proc", func(r string) error {
			return os.Symlink("/proc/meminfo", r+"/vol")
		}, addMount(&ocipb.Mount{Destination: "/vol", Type: "bind", Source: outside + "/file", Options: []string{"bind"}})},
		{"procfs is elsewhere and /proc is a link into it", "true", "!not an ordinary directory", func(r string) error {
			return os.Symlink("/p", r+"/proc")
		}, func(s *ocipb.Spec) {
			s.Mounts[0].Destination = "/p"
			addMount(&ocipb.Mount{Destination: "/proc/loadavg", Type: "bind", Source: outside + "/file", Options: []string{"bind"}})(s)
		}},
		{"/dev/null of the image is another file (CVE-2025-31133)", "!", "!something else is there", func(r string) error {
			if err := os.MkdirAll(r+"/dev", 0o755); err != nil {
				return err
			}
			return os.Symlink("/proc/sys/kernel/core_pattern", r+"/dev/null")
		}, func(s *ocipb.Spec) { s.Mounts = s.Mounts[:1] }},
		{"the mask of a file is the true null device though /dev comes from outside", "stat -c '%F %t:%T' /proc/version; readlink /dev/null", "character special file 1:3\n/proc/sys/kernel/core_pattern\n", nil, func(s *ocipb.Spec) {
			dev := volumeWith(t, "")
			_ = os.Symlink("/proc/sys/kernel/core_pattern", dev+"/null")
			s.Linux.MaskedPaths = []string{"/proc/version"}
			s.Mounts = append(s.Mounts[:1:1], &ocipb.Mount{Destination: "/dev", Type: "bind", Source: dev, Options: []string{"bind"}})
		}},
		{"a masked path is a link outside", "cat " + outside + "/file; cat /etc/secret", "cat: can't open '" + outside + "/file': No such file or directory\ncat: can't open '/etc/secret': No such file or directory\n", func(r string) error {
			return os.Symlink(outside+"/file", r+"/etc/secret")
		}, func(s *ocipb.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/secret") }},
		{"a terminal without devpts", "true", "!needs devpts on /dev/pts", nil, func(s *ocipb.Spec) {
			s.Process.Terminal, s.Mounts = true, s.Mounts[:1]
		}},
		{"/dev/pts is a directory of the image with a device of its own", "true", "!devpts", func(r string) error {
			if err := os.MkdirAll(r+"/dev/pts", 0o755); err != nil {
				return err
			}
			return unix.Mknod(r+"/dev/pts/ptmx", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1)))
		}, func(s *ocipb.Spec) { s.Process.Terminal, s.Mounts = true, s.Mounts[:1] }},
		{"the working directory is a link outside", "pwd", outside + "\n", func(r string) error {
			return os.Symlink(outside, r+"/cwd")
		}, func(s *ocipb.Spec) { s.Process.Cwd = "/cwd" }},
		{"passwd is a pipe", "echo $HOME", "/\n", func(r string) error {
			if err := os.Remove(r + "/etc/passwd"); err != nil {
				return err
			}
			return unix.Mkfifo(r+"/etc/passwd", 0o644)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rootfs := makeRootfs(t)
			if tt.prepare != nil {
				if err := tt.prepare(rootfs); err != nil {
					t.Fatal(err)
				}
			}
			spec := in(rootfs, tt.script, tt.change)
			c, out, err := create(t, rt, spec)
			if part, ok := strings.CutPrefix(tt.want, "!"); ok {
				if err == nil {
					err = c.Start(testContext(t))
				}
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v does not hold %q", err, part)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(testContext(t)); err != nil {
				t.Fatal(err)
			}
			wait(t, c.Init())
			if got := out.String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside there are now %v, %v", entries, err)
	}
}

// volumeWith returns a directory with a file x, unless text is empty.
func volumeWith(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if text != "" {
		write(t, dir+"/x", text, 0o644)
	}
	return dir
}
