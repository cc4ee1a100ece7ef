package taskpid

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/test/pace"
)

// These tests need root, as the shim does.

func TestTheCodeIsItsSourceAssembled(t *testing.T) {
	dir := t.TempDir()
	object, code := filepath.Join(dir, "o"), filepath.Join(dir, "bin")
	for _, c := range [][]string{
		{"as", "testdata/interpreter.s", "-o", object},
		{"objcopy", "-O", "binary", "-j", ".text", object, code},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", c, err, out)
		}
	}
	want, err := os.ReadFile(code)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != interpreter {
		t.Errorf("testdata/interpreter.s is % x, the program has % x", want, interpreter)
	}
}

func TestTheProgramFitsAPage(t *testing.T) {
	for _, where := range []place{ownRoot, joinPeer} {
		if size := len(image(where, true)); size > 2048 {
			t.Errorf("the program has %d bytes, want at most 2048", size)
		}
	}
}

// started starts a process that ends with the test.
func started(t testing.TB, o Options) *Process {
	t.Helper()
	spawner := process.NewSpawner()
	p, err := Start(t.Context(), spawner, o)
	if err != nil {
		spawner.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, p); spawner.Close() })
	return p
}

func kill(t testing.TB, p *Process) {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(time.Minute))
	defer cancel()
	if err := p.Kill(ctx); err != nil {
		t.Error(err)
	}
}

// proc is the path of a file of the process in /proc.
func (p *Process) proc(name ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(p.ID().PID)}, name...)...)
}

func rootWith(t *testing.T, name, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestItsRootIsTheContainers(t *testing.T) {
	dir := rootWith(t, "hello", "from the container")
	p := started(t, Options{ID: "c1", Root: dir})
	for _, link := range []string{"root", "cwd"} {
		got, err := os.ReadFile(p.proc(link, "hello"))
		if err != nil || string(got) != "from the container" {
			t.Errorf("%s/hello holds %q, %v", link, got, err)
		}
		if err := os.WriteFile(p.proc(link, "copied-"+link), nil, 0o644); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "copied-"+link)); err != nil {
			t.Errorf("a copy into %s: %v", link, err)
		}
	}
	// Its mount namespace holds nothing else.
	mounts, err := os.ReadFile(p.proc("mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(mounts), "\n"); n != 1 {
		t.Errorf("%d mounts, want 1:\n%s", n, mounts)
	}
	for _, flag := range []string{"nosuid", "nodev", "noexec"} {
		if !strings.Contains(string(mounts), flag) {
			t.Errorf("the root is not %s: %s", flag, mounts)
		}
	}
	if out, err := exec.Command("nsenter", "-t", strconv.Itoa(p.ID().PID), "-m", "/bin/true").CombinedOutput(); err == nil {
		t.Errorf("nsenter has found a program in an empty place: %s", out)
	}
}

func TestWhatIsMountedBelowTheRootIsThere(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", below, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(below, unix.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(below, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := started(t, Options{ID: "c1", Root: dir, Readonly: true})
	if _, err := os.Stat(p.proc("root/below/file")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(p.proc("root/below/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write below a read-only root: %v, want EROFS", err)
	}
}

func TestAReadonlyRootCannotBeWritten(t *testing.T) {
	dir := rootWith(t, "hello", "")
	p := started(t, Options{ID: "c1", Root: dir, Readonly: true})
	if err := os.WriteFile(p.proc("root/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write: %v, want EROFS", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); err != nil {
		t.Errorf("the shim's own way to it: %v", err)
	}
}

func TestWithoutARootItHasAnEmptyOne(t *testing.T) {
	p := started(t, Options{ID: "c1"})
	entries, err := os.ReadDir(p.proc("root"))
	if err != nil || len(entries) != 0 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
	if err := os.WriteFile(p.proc("root/new"), nil, 0o644); err == nil {
		t.Error("the empty root could be written")
	}
}

func TestItHasNoPrivileges(t *testing.T) {
	p := started(t, Options{ID: "a-container-with-a-long-name", OOMScoreAdj: 321})
	status := p.status(t)
	for name, want := range map[string]string{
		"Name": "kata:a-containe", "CapInh": "0000000000000000", "CapPrm": "0000000000000000",
		"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2", "Threads": "1",
	} {
		if name == "Seccomp" {
			p.awaitStatus(t, name, want)
		} else if status[name] != want {
			t.Errorf("%s is %q, want %q", name, status[name], want)
		}
	}
	if got, err := os.ReadFile(p.proc("cmdline")); err != nil || string(got) != "kata:a-container-with-a-long-name\x00" {
		t.Errorf("command line %q, %v", got, err)
	}
	if fds, err := os.ReadDir(p.proc("fd")); err != nil || len(fds) > 0 {
		t.Errorf("open descriptors %v, %v", fds, err)
	}
	if got, err := os.ReadFile(p.proc("oom_score_adj")); err != nil || string(got) != "321\n" {
		t.Errorf("oom_score_adj %q, %v", got, err)
	}
	// What is not dumpable belongs to root and is out of reach for a user of the
	// same id without CAP_SYS_PTRACE (ptrace(2)).
	p.deniedWithoutPtrace(t)
}

// deniedWithoutPtrace wants that root without CAP_SYS_PTRACE cannot follow the
// process's root link.
func (p *Process) deniedWithoutPtrace(t *testing.T) {
	t.Helper()
	cmd := exec.Command("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-all", "ls", p.proc("root")+"/")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ermission denied") {
		t.Errorf("without CAP_SYS_PTRACE its root shows %q, %v", out, err)
	}
}

func (p *Process) status(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(p.proc("status"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	status := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		status[name] = strings.TrimSpace(value)
	}
	return status
}

// awaitStatus is for the system call that follows the one by which the process
// tells that it is ready.
func (p *Process) awaitStatus(t *testing.T, name, want string) {
	t.Helper()
	for p.status(t)[name] != want {
		select {
		case <-t.Context().Done():
			t.Fatalf("%s is %q, want %q", name, p.status(t)[name], want)
		default:
			runtime.Gosched()
		}
	}
}

func TestItTakesNoSignalButSIGKILL(t *testing.T) {
	p := started(t, Options{ID: "c1"})
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGSTOP, syscall.SIGCONT} {
		if err := syscall.Kill(p.ID().PID, s); err != nil {
			t.Fatal(err)
		}
	}
	if !p.ID().Alive() {
		t.Fatal("it has ended")
	}
	if err := syscall.Kill(p.ID().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
}

func TestItsFilterAllowsTwoCalls(t *testing.T) {
	type verdict = map[bool]string
	run := func(arch, nr uint32) bool {
		rules := seccompFilter()
		var a uint32
		for pc := 0; ; pc++ {
			switch r := rules[pc]; r.Code {
			case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
				a = map[uint32]uint32{0: nr, 4: arch}[r.K]
			case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
				if a == r.K {
					pc += int(r.Jt)
				} else {
					pc += int(r.Jf)
				}
			default:
				return r.K == 0x7fff0000
			}
		}
	}
	words := verdict{true: "allowed", false: "not allowed"}
	for nr := range uint32(1024) {
		want := nr == unix.SYS_PAUSE || nr == unix.SYS_EXIT || nr == unix.SYS_EXIT_GROUP
		if got := run(unix.AUDIT_ARCH_X86_64, nr); got != want {
			t.Errorf("call %d is %s", nr, words[got])
		}
		if run(unix.AUDIT_ARCH_I386, nr) || run(unix.AUDIT_ARCH_X86_64, nr|0x40000000) {
			t.Errorf("call %d of another ABI is allowed", nr)
		}
	}
}

func link(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestItsNetworkNamespaceIsThePods(t *testing.T) {
	first := started(t, Options{ID: "c1"})
	if own := link(t, "/proc/self/ns/net"); own == link(t, first.proc("ns/net")) {
		t.Error("without a path it is in the host's network namespace")
	}
	second := started(t, Options{ID: "c2", NetNS: first.proc("ns/net")})
	if a, b := link(t, first.proc("ns/net")), link(t, second.proc("ns/net")); a != b {
		t.Errorf("with a path it is in %s, not in %s", b, a)
	}
	host, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	devices, err := os.ReadFile(first.proc("net/dev"))
	if err != nil || strings.Count(string(devices), "\n") != 2+1 {
		t.Errorf("of the host's %d interfaces it has:\n%s, %v", len(host), devices, err)
	}
}

func TestAnExecIsWhereItsContainerIs(t *testing.T) {
	p := started(t, Options{ID: "c1", Root: rootWith(t, "hello", "x")})
	e, err := p.Exec(t.Context(), "e1")
	if err != nil {
		t.Fatal(err)
	}
	defer kill(t, e)
	for _, ns := range []string{"ns/net", "ns/mnt"} {
		if a, b := link(t, p.proc(ns)), link(t, e.proc(ns)); a != b {
			t.Errorf("%s of the exec is %s, not %s", ns, b, a)
		}
	}
	if _, err := os.Stat(e.proc("root/hello")); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(e.proc("cmdline")); err != nil || string(got) != "kata:c1\x00exec\x00e1\x00" {
		t.Errorf("command line %q, %v", got, err)
	}
	e.awaitStatus(t, "Seccomp", "2")
	kill(t, p)
	if _, err := p.Exec(t.Context(), "e2"); err == nil {
		t.Error("an exec of a container that has ended was started")
	}
}

func TestWhatCannotBeIsAnError(t *testing.T) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	file := filepath.Join(rootWith(t, "file", ""), "file")
	for what, c := range map[string]struct {
		o    Options
		want string
	}{
		"a root that is not there":    {Options{ID: "c1", Root: "/no/such"}, "container c1: open_tree /no/such: no such file or directory"},
		"a root that is a file":       {Options{ID: "c1", Root: file}, "c1: open_tree " + file + ": not a directory"},
		"a netns that is not there":   {Options{ID: "c1", NetNS: "/no/netns"}, "network namespace: open /no/netns"},
		"a netns that is a mount one": {Options{ID: "c1", NetNS: "/proc/self/ns/mnt"}, "setns: invalid argument"},
	} {
		p, err := Start(t.Context(), spawner, c.o)
		if err == nil {
			kill(t, p)
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := Start(ctx, spawner, Options{ID: "c1"}); !errors.Is(err, context.Canceled) {
		kill(t, p)
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestItDiesWithWhoStartedIt(t *testing.T) {
	if os.Getenv("TASKPID_CHILD") != "" {
		p, err := Start(context.Background(), process.NewSpawner(), Options{ID: "orphan"})
		fmt.Println(p.ID().PID, err)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestItDiesWithWhoStartedIt$")
	cmd.Env = append(os.Environ(), "TASKPID_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, scanErr := fmt.Fscan(out, &pid)
	id, err := process.Identify(pid)
	killErr := cmd.Process.Kill()
	_ = cmd.Wait()
	if err := errors.Join(scanErr, err, killErr); err != nil {
		t.Fatal(err)
	}
	if err := id.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCgroupsOfTheSpec(t *testing.T) {
	for path, want := range map[string]string{
		"":                                 "",
		"/":                                "",
		"/default/c1":                      "/default/c1",
		"pods/c1":                          "/pods/c1",
		"/../../etc/c1":                    "/etc/c1",
		"system.slice:nerdctl:c1":          "/system.slice/nerdctl-c1.scope",
		":nerdctl:c1":                      "/system.slice/nerdctl-c1.scope",
		"kubepods-pod1.slice:cri:c1":       "/kubepods.slice/kubepods-pod1.slice/cri-c1.scope",
		"user.slice:x:y.slice":             "/user.slice/y.slice",
		"-.slice:docker:c1":                "/docker-c1.scope",
		"a.slice:b":                        "",
		"/kubepods/besteffort/podX/c1:dev": "/kubepods/besteffort/podX/c1:dev",
	} {
		if got := cgroupPath(path); got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
	}
}

func TestItIsInThePodsCgroup(t *testing.T) {
	path := fmt.Sprintf("/taskpid-test-%d/c1", os.Getpid())
	c := NewCgroup(path)
	c.Make()
	if !anyThere(c.Dirs()) {
		t.Fatal("no hierarchy took the cgroup")
	}
	p := started(t, Options{ID: "c1", Cgroup: c})
	in, err := os.ReadFile(p.proc("cgroup"))
	if err != nil || strings.Count(string(in), ":"+path+"\n") != len(c.dirs) {
		t.Errorf("it is in\n%swant %s in %d of them; %v", in, path, len(c.dirs), err)
	}
	removeCgroups(c.Dirs())
	if !anyThere(c.Dirs()) {
		t.Error("the cgroup of a process that lives was removed")
	}
	kill(t, p)
	if removeCgroups(c.Dirs()); anyThere(c.Dirs()) {
		t.Error("cgroups are left")
	}
	NewCgroup("/").Make()
}

func removeCgroups(dirs []string) {
	for _, dir := range slices.Backward(dirs) {
		_ = unix.Rmdir(dir)
	}
}

func anyThere(dirs []string) bool {
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			return true
		}
	}
	return false
}

// BenchmarkStart is a container's share: the process, its memory while it lives,
// its end.
func BenchmarkStart(b *testing.B) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	o := Options{ID: "bench", Root: b.TempDir()}
	for name, start := range map[string]func() (*Process, error){
		"container": func() (*Process, error) { return Start(b.Context(), spawner, o) },
		"in a cgroup": func() (*Process, error) {
			o := o
			o.Cgroup = NewCgroup(fmt.Sprintf("/taskpid-bench-%d/c1", os.Getpid()))
			o.Cgroup.Make()
			b.Cleanup(func() { removeCgroups(o.Cgroup.Dirs()) })
			return Start(b.Context(), spawner, o)
		},
	} {
		b.Run(name, func(b *testing.B) { measure(b, start) })
	}
	p, err := Start(b.Context(), spawner, o)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("exec", func(b *testing.B) { measure(b, func() (*Process, error) { return p.Exec(b.Context(), "e1") }) })
	kill(b, p)
}

func measure(b *testing.B, start func() (*Process, error)) {
	var pss float64
	for b.Loop() {
		p, err := start()
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		pss += p.pss(b)
		kill(b, p)
		b.StartTimer()
	}
	b.ReportMetric(pss/float64(b.N), "KiB-PSS")
}

// pss is what the process has in memory, in KiB (proc_pid_smaps_rollup).
func (p *Process) pss(t testing.TB) float64 {
	t.Helper()
	b, err := os.ReadFile(p.proc("smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nPss:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestItTakesLittleMemory(t *testing.T) {
	p := started(t, Options{ID: "c1", Root: t.TempDir()})
	if kib := p.pss(t); kib > 50 {
		t.Errorf("it takes %v KiB (PSS), more than 50", kib)
	}
}
