package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"kata/api/ocipb"
	"kata/guest/agent/reaper"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/stage"
	"kata/test/pace"
)

func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	stage.Main()
	if os.Getenv(hostile) != "" {
		asTheAgentsBinary()
		return
	}
	os.Exit(m.Run())
}

// theReaper collects the children of the whole test program: there can be only
// one.
var theReaper = sync.OnceValue(func() *reaper.Reaper {
	r := reaper.New()
	go func() { _ = r.Run(context.Background()) }()
	return r
})

// testRuntime returns a runtime with a cgroup of its own.
func testRuntime(t testing.TB) *Runtime {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		mount, fs, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(fs, "cgroup2 ") {
			continue
		}
		root := fmt.Sprintf("%s/katatest%d", strings.Fields(mount)[4], os.Getpid())
		if err := os.Mkdir(root, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(root) })
		return NewRuntime(Config{Reaper: theReaper(), CgroupRoot: root, Home: filepath.Dir(root) + ownCgroup(t)})
	}
	t.Fatal("this machine has no cgroup2 mount")
	return nil
}

// ownCgroup is the path of the test program's cgroup.
func ownCgroup(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path)
		}
	}
	t.Fatalf("no cgroup of version 2 in %q", text)
	return ""
}

// busybox finds the statically linked busybox of the machine.
func busybox(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("this machine has no busybox")
	return ""
}

// makeRootfs returns a new root file system with busybox.
func makeRootfs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"bin/busybox": string(text),
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "secret"), 0o700); err != nil {
		t.Fatal(err)
	}
	applets := "sh cat echo sleep true false ls id env mount umount mkdir touch ln readlink stat grep head hostname kill ps tty stty test chmod chown dd wc date umask mknod rm mv awk tr sort seq cut find pwd nproc ulimit"
	for name := range strings.FieldsSeq(applets) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// defaultSpec is what containerd gives a container, running a shell script.
func defaultSpec(rootfs, script string) *ocipb.Spec {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	return &ocipb.Spec{
		Version: "1.1.0",
		Process: &ocipb.Process{
			Args: []string{"sh", "-c", script}, Cwd: "/", User: &ocipb.User{},
			Env:              []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Capabilities:     &ocipb.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges:  true,
			OOMScoreAdjUnset: true,
		},
		Root: &ocipb.Root{Path: rootfs},
		Mounts: []*ocipb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &ocipb.Linux{
			Resources: &ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}}},
			Namespaces: []*ocipb.LinuxNamespace{
				{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}, {Type: "network"},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

const patience = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(patience))
	t.Cleanup(cancel)
	return ctx
}

// output collects what is written to the other end of a pipe.
type output struct {
	write *os.File
	done  chan struct{}

	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
}

func newOutput(t testing.TB) *output {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := &output{write: write, done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer read.Close()
		_, _ = io.Copy(o, read)
	}()
	return o
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(b)
}

// String is everything that was written, when all writers are gone.
func (o *output) String() string {
	<-o.done
	return o.text.String()
}

// result is how a process ended, and what it wrote to both of its streams.
type result struct {
	status int
	output string
}

// createSpec makes a container of an OCI spec.
func createSpec(ctx context.Context, rt *Runtime, id string, spec *ocipb.Spec, stdio Stdio, o Options) (*Container, error) {
	return createAs(ctx, rt, id, spec, plan.Names{}, stdio, o)
}

// createAs is createSpec with a user by name.
func createAs(ctx context.Context, rt *Runtime, id string, spec *ocipb.Spec, names plan.Names, stdio Stdio, o Options) (*Container, error) {
	parsed, err := ocispec.Parse(id, spec, ocispec.Options{SharesPIDs: o.JoinPID != nil, Names: names})
	if err != nil {
		return nil, err
	}
	return rt.Create(ctx, parsed, stdio, o)
}

// execAs runs an OCI process, with a user by name.
func execAs(ctx context.Context, c *Container, id string, p *ocipb.Process, names plan.Names, stdio Stdio) (*Process, error) {
	parsed, err := ocispec.ParseProcess(p, names)
	if err != nil {
		return nil, err
	}
	return c.Exec(ctx, id, &parsed, stdio)
}

// create makes a container whose output goes to the returned place.
func create(t testing.TB, rt *Runtime, spec *ocipb.Spec) (*Container, *output, error) {
	t.Helper()
	out := newOutput(t)
	defer out.write.Close()
	id := fmt.Sprintf("c%d", time.Now().UnixNano())
	c, err := createSpec(testContext(t), rt, id, spec, Stdio{Stdout: out.write, Stderr: out.write}, Options{})
	if err != nil {
		return nil, out, err
	}
	t.Cleanup(func() {
		if err := c.Destroy(testContext(t)); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return c, out, nil
}

// started makes a container and starts it.
func started(t testing.TB, rt *Runtime, spec *ocipb.Spec) (*Container, *output) {
	t.Helper()
	c, out, err := create(t, rt, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return c, out
}

// wait returns the exit status of a process.
func wait(t testing.TB, p *Process) int {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit().Status
	case <-time.After(pace.Of(patience)):
		t.Fatalf("process %d does not end", p.PID())
		return -1
	}
}

// run runs a container to its end.
func run(t testing.TB, rt *Runtime, spec *ocipb.Spec) result {
	t.Helper()
	c, out := started(t, rt, spec)
	status := wait(t, c.Init())
	return result{status, out.String()}
}

// execIn runs a process in a container to its end.
func execIn(t testing.TB, c *Container, p *ocipb.Process) (result, error) {
	t.Helper()
	out := newOutput(t)
	process, err := execAs(testContext(t), c, "exec", p, plan.Names{}, Stdio{Stdout: out.write, Stderr: out.write})
	out.write.Close()
	if err != nil {
		return result{}, err
	}
	status := wait(t, process)
	return result{status, out.String()}, nil
}

// execProcess is a process like the one of defaultSpec.
func execProcess(script string) *ocipb.Process {
	return defaultSpec("/x", script).Process
}

// sleeper is a container that stays until it is killed.
func sleeper(t testing.TB, rt *Runtime, change ...func(*ocipb.Spec)) *Container {
	t.Helper()
	spec := defaultSpec(makeRootfs(t), "")
	spec.Process.Args = []string{"sleep", "100000"} // it is there as soon as Start has returned
	for _, f := range change {
		f(spec)
	}
	c, _ := started(t, rt, spec)
	return c
}

// openFiles is what the test program has open.
func openFiles(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		files = append(files, e.Name()+" "+target)
	}
	return files
}

func writeFile(path, text string, mode uint32) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(mode))
}
