package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/plan"
	"kata/guest/fault"
)

func TestStatus(t *testing.T) {
	rt := testRuntime(t)
	c, _, err := create(t, rt, defaultSpec(makeRootfs(t), "exec sleep 100000"))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want Status) {
		t.Helper()
		if got := c.Status(); got != want {
			t.Errorf("status %v, want %v", got, want)
		}
	}
	expect(Created)
	if _, err := execIn(t, c, execProcess("true")); !errors.Is(err, ErrNotRunning) {
		t.Errorf("exec before start: %v", err)
	}
	if err := c.Pause(testContext(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("pause before start: %v", err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	expect(Running)
	if err := c.Start(testContext(t)); err == nil {
		t.Error("started twice")
	}
	if err := c.Pause(testContext(t)); err != nil {
		t.Fatal(err)
	}
	expect(Paused)
	if _, err := execIn(t, c, execProcess("true")); !errors.Is(err, ErrPaused) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := c.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	expect(Running)
	if err := c.Init().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init())
	expect(Stopped)
	if _, err := execIn(t, c, execProcess("true")); !errors.Is(err, ErrNotRunning) {
		t.Errorf("exec in a container that has ended: %v", err)
	}
	for range 2 {
		if err := c.Destroy(testContext(t)); err != nil {
			t.Error(err)
		}
	}
}

func TestPauseStopsTheProcesses(t *testing.T) {
	rt := testRuntime(t)
	c, out := started(t, rt, defaultSpec(makeRootfs(t), "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"))
	out.waitFor(t, "3\n")
	if err := c.Pause(testContext(t)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", c.Init().PID()))
	if err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(100 * time.Millisecond) // what is paused would run in this time
	<-timer.C
	again, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", c.Init().PID()))
	if err != nil || string(again) != string(text) {
		t.Errorf("a paused process went from %q to %q, %v", text, again, err)
	}
	// A paused container can be killed and removed.
	if err := c.Destroy(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestTenExecsAtOnce(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			out := newOutput(t)
			p, err := execAs(testContext(t), c, fmt.Sprint(i), execProcess(fmt.Sprintf("echo %d; exit %d", i, i)), plan.Names{}, Stdio{Stdout: out.write})
			out.write.Close()
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Done()
			if got, want := (result{p.Exit().Status, out.String()}), (result{i, fmt.Sprintln(i)}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	wg.Wait()
}

func TestManyContainersAtOnce(t *testing.T) {
	rt := testRuntime(t)
	var wg sync.WaitGroup
	for i := range 10 {
		spec := defaultSpec(makeRootfs(t), fmt.Sprintf("exit %d", i))
		wg.Go(func() {
			c, err := createSpec(testContext(t), rt, fmt.Sprintf("many%d", i), spec, Stdio{}, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Start(testContext(t)); err != nil {
				t.Error(err)
			}
			<-c.Init().Done()
			if got := c.Init().Exit().Status; got != i {
				t.Errorf("status %d, want %d", got, i)
			}
			if err := c.Destroy(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The exit is known although a child holds the output.
func TestExitDoesNotWaitForOutput(t *testing.T) {
	rt := testRuntime(t)
	out := newOutput(t)
	// In another's pid namespace the child outlives it.
	c, err := createSpec(testContext(t), rt, "parent", defaultSpec(makeRootfs(t), "sleep 100000 & echo started; exit 5"),
		Stdio{Stdout: out.write}, Options{JoinPID: sleeper(t, rt)})
	out.write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Destroy(testContext(t)); err != nil {
			t.Error(err)
		}
	})
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if status := wait(t, c.Init()); status != 5 {
		t.Errorf("status %d, want 5", status)
	}
	// And the child does not outlive the container.
	if got := out.String(); got != "started\n" {
		t.Errorf("output %q", got)
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	rt := testRuntime(t)
	first := sleeper(t, rt)
	out := newOutput(t)
	c, err := createSpec(testContext(t), rt, "second", defaultSpec(makeRootfs(t), "tr '\\0' ' ' </proc/1/cmdline; test $$ != 1 && echo not 1"), Stdio{Stdout: out.write}, Options{JoinPID: first})
	out.write.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init())
	if got := out.String(); got != "sleep 100000 not 1\n" {
		t.Errorf("output %q", got)
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Error(err)
	}
	if first.Status() != Running {
		t.Error("the first container has ended too")
	}
}

// Nobody is in the agent's own pid namespace.
func TestTheAgentsPIDsAreNotShared(t *testing.T) {
	rt := testRuntime(t)
	for name, change := range map[string]func(*ocipb.Spec){
		"no pid namespace":    func(s *ocipb.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"no linux section":    func(s *ocipb.Spec) { s.Linux = nil },
		"the agent's by path": func(s *ocipb.Spec) { s.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", os.Getpid()) },
	} {
		_, _, err := create(t, rt, in(makeRootfs(t), "true", change))
		if refused := (*fault.Error)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "linux.namespaces") {
			t.Errorf("%s: %v, want one that names linux.namespaces", name, err)
		}
	}
}

// A spec without device rules gets those of runc, not none.
func TestDevicesWithoutRules(t *testing.T) {
	rt := testRuntime(t)
	script := `echo x >/dev/null && echo null
head -c 1 /dev/zero >/dev/null && echo zero
mknod /dev/kmsg2 c 1 11 && mknod /dev/loop2 b 7 0 && echo made
head -c 1 /dev/kmsg2 2>&1 | grep -o "not permitted"
head -c 1 /dev/loop2 2>&1 | grep -o "not permitted"
`
	for name, change := range map[string]func(*ocipb.Spec){
		"no rules":     func(s *ocipb.Spec) { s.Linux.Resources.Devices = nil },
		"no resources": func(s *ocipb.Spec) { s.Linux.Resources = nil },
	} {
		got := run(t, rt, in(makeRootfs(t), script, change))
		if want := "null\nzero\nmade\nnot permitted\nnot permitted\n"; got.output != want {
			t.Errorf("%s: %q, want %q", name, got.output, want)
		}
	}
}

func TestNamespacesByPath(t *testing.T) {
	rt := testRuntime(t)
	first := sleeper(t, rt, func(s *ocipb.Spec) { s.Hostname = "first" })
	path := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", first.Init().PID(), name) }
	got := run(t, rt, in(makeRootfs(t), "hostname; ls -d /proc/1; for n in pid uts ipc cgroup net; do readlink /proc/self/ns/$n; done", func(s *ocipb.Spec) {
		s.Linux.Namespaces = []*ocipb.LinuxNamespace{
			{Type: "mount"}, {Type: "pid", Path: path("pid")}, {Type: "uts", Path: path("uts")},
			{Type: "ipc", Path: path("ipc")}, {Type: "cgroup", Path: path("cgroup")}, {Type: "network", Path: path("net")},
		}
	}))
	want := "first\n/proc/1\n"
	for _, n := range []string{"pid", "uts", "ipc", "cgroup", "net"} {
		target, err := os.Readlink(path(n))
		if err != nil {
			t.Fatal(err)
		}
		want += target + "\n"
	}
	if got.output != want {
		t.Errorf("got %q, want %q", got.output, want)
	}
}

func TestNamespacesAreNew(t *testing.T) {
	rt := testRuntime(t)
	got := run(t, rt, defaultSpec(makeRootfs(t), "for n in pid mnt uts ipc cgroup net; do readlink /proc/self/ns/$n; done")).output
	for i, n := range []string{"pid", "mnt", "uts", "ipc", "cgroup", "net"} {
		own, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(got, "\n")
		if same := lines[i] == own; same != (n == "net") {
			t.Errorf("%s namespace is %s, the agent's is %s", n, lines[i], own)
		}
	}
}

func TestValidate(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		name, want string
		change     func(*ocipb.Spec)
	}{
		{"an unknown namespace", `linux.namespaces[6].type "quantum" is unknown`, func(s *ocipb.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "quantum"})
		}},
		{"a namespace twice", `linux.namespaces[6]: type "pid" is there twice`, func(s *ocipb.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "pid"})
		}},
		{"a namespace path that is not there", "uts namespace /no/such: no such file or directory", func(s *ocipb.Spec) {
			s.Linux.Namespaces[2].Path = "/no/such"
		}},
		{"no process", "process is missing", func(s *ocipb.Spec) { s.Process = nil }},
		{"no root", `root.path "" is not an absolute path below /`, func(s *ocipb.Spec) { s.Root = nil }},
		{"a root that is not there", "root file system /no/such: no such file or directory", func(s *ocipb.Spec) { s.Root.Path = "/no/such" }},
		{"a host name without a namespace", `hostname "x" needs a uts namespace of the container's own`, func(s *ocipb.Spec) {
			s.Hostname, s.Linux.Namespaces = "x", s.Linux.Namespaces[:2]
		}},
		{"a sysctl of the whole guest", `linux.sysctl "kernel.panic" is not in a separate kernel namespace`, func(s *ocipb.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.panic": "1"}
		}},
		{"a sysctl by a way around", `linux.sysctl "net/../kernel/panic" is not the name of a kernel parameter`, func(s *ocipb.Spec) {
			s.Linux.Sysctl = map[string]string{"net/../kernel/panic": "1"}
		}},
		{"a sysctl that is not there", "sysctl net.no.such=1: no such file or directory", func(s *ocipb.Spec) {
			s.Linux.Sysctl = map[string]string{"net.no.such": "1"}
		}},
		{"an unknown propagation", `linux.rootfsPropagation: unknown mount propagation "far"`, func(s *ocipb.Spec) { s.Linux.RootfsPropagation = "far" }},
		{"seccomp that is not compiled", `linux.seccomp.filters is empty: the profile (default action "SCMP_ACT_ALLOW", 0 rules) is not compiled, which is for the host to do`, func(s *ocipb.Spec) {
			s.Linux.Seccomp = &ocipb.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"}
		}},
		{"a cgroup path that is the root", `linux.cgroupsPath: cgroup path "/a/.." is the root`, func(s *ocipb.Spec) { s.Linux.CgroupsPath = "/a/.." }},
		{"a limit that the kernel refuses", "linux.resources.unified cgroup.max.depth: write 1x to cgroup.max.depth: invalid argument", func(s *ocipb.Spec) {
			s.Linux.Resources = &ocipb.LinuxResources{Unified: map[string]string{"cgroup.max.depth": "1x"}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := create(t, rt, in(makeRootfs(t), "true", tt.change))
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b", "ä", strings.Repeat("x", 256)} {
		if _, err := createSpec(testContext(t), rt, id, defaultSpec("/x", ""), Stdio{}, Options{}); err == nil {
			t.Errorf("container ID %q was accepted", id)
		}
	}
}

func TestTerminal(t *testing.T) {
	rt := testRuntime(t)
	script := "test -t 0 && test -t 1 && test -t 2 && echo terminal; tty; stty size; read line; echo got $line; read line; stty size; ls -l /dev/console | cut -c1"
	terminal := func(p *ocipb.Process) {
		p.Terminal, p.ConsoleSize = true, &ocipb.Box{Height: 24, Width: 80}
	}
	talk := func(t *testing.T, p *Process) string {
		defer p.Console().Close()
		lines := make(chan string, 100)
		go func() {
			defer close(lines)
			buf := make([]byte, 4096)
			var rest string
			for {
				n, err := p.Console().Read(buf)
				rest += string(buf[:n])
				for i := strings.IndexByte(rest, '\n'); i >= 0; i = strings.IndexByte(rest, '\n') {
					lines <- strings.TrimSpace(rest[:i])
					rest = rest[i+1:]
				}
				if err != nil {
					if !errors.Is(err, unix.EIO) && err != io.EOF {
						t.Errorf("read the terminal: %v", err)
					}
					return
				}
			}
		}()
		expect := func(want string) {
			t.Helper()
			if got := <-lines; got != want {
				t.Errorf("line %q, want %q", got, want)
			}
		}
		expect("terminal")
		if got := <-lines; !strings.HasPrefix(got, "/dev/pts/") && got != "/dev/console" {
			t.Errorf("tty says %q", got)
		}
		expect("24 80")
		_, _ = p.Console().WriteString("hello\n")
		expect("hello") // the echo
		expect("got hello")
		if err := p.Resize(132, 43); err != nil {
			t.Error(err)
		}
		_, _ = p.Console().WriteString("x\n")
		expect("x")
		expect("43 132")
		expect("c")
		for range lines { // to the end, which is when the process has closed it
		}
		return ""
	}
	t.Run("first process", func(t *testing.T) {
		spec := defaultSpec(makeRootfs(t), script)
		terminal(spec.Process)
		c, _ := started(t, rt, spec)
		talk(t, c.Init())
		if status := wait(t, c.Init()); status != 0 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("exec, as a user", func(t *testing.T) {
		c := sleeper(t, rt, func(s *ocipb.Spec) { s.Process.Terminal = true })
		p := execProcess(script)
		terminal(p)
		p.User = &ocipb.User{UID: 1000, GID: 100}
		process, err := execAs(testContext(t), c, "t", p, plan.Names{}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		talk(t, process)
		if status := wait(t, process); status != 0 {
			t.Errorf("status %d", status)
		}
		c.Init().Console().Close()
	})
	t.Run("hang-up", func(t *testing.T) {
		spec := defaultSpec(makeRootfs(t), "exec sleep 100000")
		terminal(spec.Process)
		c := sleeper(t, rt)
		p := execProcess("exec sleep 100000")
		terminal(p)
		process, err := execAs(testContext(t), c, "t", p, plan.Names{}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		process.Console().Close()
		if status := wait(t, process); status != 129 {
			t.Errorf("status %d, want 129, SIGHUP", status)
		}
	})
	t.Run("no terminal", func(t *testing.T) {
		if err := sleeper(t, rt).Init().Resize(1, 1); err == nil {
			t.Error("a process without a terminal was resized")
		}
	})
}

// Whatever happens on the way, no process, descriptor, mount or cgroup is left.
func TestNothingIsLeft(t *testing.T) {
	rt := testRuntime(t)
	rootfs := makeRootfs(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	soon, cancelSoon := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancelSoon()
	for _, ctx := range []context.Context{cancelled, soon, testContext(t)} {
		before := openFiles(t)
		for range 3 {
			c, err := createSpec(ctx, rt, "left", defaultSpec(rootfs, "exec sleep 100000"), Stdio{}, Options{})
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				continue
			}
			if err := c.Start(ctx); err == nil {
				p := execProcess("true")
				p.Terminal = true
				if e, err := execAs(ctx, c, "e", p, plan.Names{}, Stdio{}); err == nil {
					<-e.Done()
					e.Console().Close()
				}
			}
			if err := c.Destroy(testContext(t)); err != nil {
				t.Error(err)
			}
		}
		if after := openFiles(t); len(after) != len(before) {
			t.Errorf("open before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	}
	if entries, err := os.ReadDir(rt.config.CgroupRoot); err != nil || anyDir(entries) {
		t.Errorf("cgroups are left: %v, %v", entries, err)
	}
}

func anyDir(entries []os.DirEntry) bool {
	for _, e := range entries {
		if e.IsDir() {
			return true
		}
	}
	return false
}

// A client that goes away while the stage waits.
func TestDestroyBeforeStart(t *testing.T) {
	rt := testRuntime(t)
	c, _, err := create(t, rt, defaultSpec(makeRootfs(t), "true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("start after destroy: %v", err)
	}
	if status := wait(t, c.Init()); status != 137 {
		t.Errorf("status %d", status)
	}
}

func BenchmarkExec(b *testing.B) {
	rt := testRuntime(b)
	c := sleeper(b, rt)
	p := execProcess("")
	p.Args = []string{"/bin/true"}
	for b.Loop() {
		process, err := execAs(context.Background(), c, "e", p, plan.Names{}, Stdio{})
		if err != nil {
			b.Fatal(err)
		}
		<-process.Done()
	}
}

func BenchmarkCreateStartDestroy(b *testing.B) {
	rt := testRuntime(b)
	spec := defaultSpec(makeRootfs(b), "")
	spec.Process.Args = []string{"/bin/true"}
	for b.Loop() {
		c, err := createSpec(context.Background(), rt, "bench", spec, Stdio{}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		<-c.Init().Done()
		if err := c.Destroy(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
