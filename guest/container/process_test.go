package container

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/plan"
)

// attributes are changes to a process and what a script in it then prints. They
// hold for the first process of a container and for an exec alike.
var attributes = []struct {
	name, script, want string
	change             func(p *ocipb.Process)
}{
	{"user and groups", "id", "uid=1000(user) gid=100 groups=7,8\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100, AdditionalGids: []uint32{7, 8}}
	}},
	{"home of a user", "echo $HOME", "/home/user\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100}
	}},
	{"home of nobody known", "echo $HOME", "/\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 4711}
	}},
	{"home as given", "echo $HOME", "/here\n", func(p *ocipb.Process) {
		p.Env = append(p.Env, "HOME=/here")
	}},
	{"a user can reopen its output", "echo hello >/dev/stdout", "hello\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100}
	}},
	{"environment, the last of two", "echo $A $B; env | grep -c ^A=", "2 3\n1\n", func(p *ocipb.Process) {
		p.Env = append(p.Env, "A=1", "B=3", "A=2")
	}},
	{"nothing but the environment asked for", "env -u PATH -u HOME -u PWD -u SHLVL env 2>&1 | grep -v ^_", "", func(p *ocipb.Process) {}},
	{"umask", "umask", "0077\n", func(p *ocipb.Process) {
		umask := uint32(0o77)
		p.User = &ocipb.User{Umask: &umask}
	}},
	{"umask of zero", "umask", "0000\n", func(p *ocipb.Process) {
		umask := uint32(0)
		p.User = &ocipb.User{Umask: &umask}
	}},
	{"working directory", "pwd", "/tmp\n", func(p *ocipb.Process) { p.Cwd = "/tmp" }},
	{"no working directory is the root", "pwd", "/\n", func(p *ocipb.Process) { p.Cwd = "" }},
	{"a working directory that only root may enter", "cat file 2>&1; pwd", "cat: can't open 'file': Permission denied\n/secret\n", func(p *ocipb.Process) {
		p.Cwd, p.User, p.Capabilities = "/secret", &ocipb.User{UID: 1000}, nil
	}},
	{"a command in the working directory", "echo found", "found\n", func(p *ocipb.Process) {
		p.Cwd, p.Args[0] = "/bin", "./sh"
	}},
	{"a relative path element", "echo found", "found\n", func(p *ocipb.Process) {
		p.Cwd, p.Env = "/bin", []string{"PATH=/nowhere::/x"}
	}},
	{"no_new_privs", "grep NoNewPrivs /proc/self/status | cut -f2", "1\n", func(p *ocipb.Process) { p.NoNewPrivileges = true }},
	{"new privileges", "grep NoNewPrivs /proc/self/status | cut -f2", "0\n", func(p *ocipb.Process) { p.NoNewPrivileges = false }},
	{"a lower limit of open files", "ulimit -n; ulimit -Hn", "100\n200\n", func(p *ocipb.Process) {
		p.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	}},
	{"limits too tight for the stage", "ulimit -v", "40960\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100}
		p.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 40 << 20, Hard: 40 << 20}, {Type: "RLIMIT_NPROC", Soft: 1, Hard: 1}}
	}},
	{"oom score", "cat /proc/self/oom_score_adj", "321\n", func(p *ocipb.Process) {
		p.OOMScoreAdj, p.OOMScoreAdjUnset = 321, false
	}},
	{"default capabilities", capScript, "0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000\n", func(p *ocipb.Process) {}},
	{"no capabilities", capScript, "0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000\n", func(p *ocipb.Process) {
		p.Capabilities = nil
	}},
	{"a user has ambient capabilities only", capScript, "0000000000000401 0000000000000401 0000000000000401 00000000a80425fb 0000000000000401\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100}
		p.Capabilities.Inheritable = []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
		p.Capabilities.Ambient = []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
	}},
	{"a user without ambient ones has none", capScript, "0000000000000000 0000000000000000 0000000000000000 00000000a80425fb 0000000000000000\n", func(p *ocipb.Process) {
		p.User = &ocipb.User{UID: 1000, GID: 100}
	}},
	{"unknown capabilities are ignored", capScript, "0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000\n", func(p *ocipb.Process) {
		p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_OF_THE_FUTURE")
	}},
	{"i/o priority and nice value", "cut -d' ' -f19 /proc/self/stat", "5\n", func(p *ocipb.Process) {
		p.Scheduler = &ocipb.LinuxScheduler{Policy: "SCHED_BATCH", Nice: 5}
		p.IOPriority = &ocipb.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 7}
	}},
}

const capScript = `set --; while read k v; do case $k in Cap*) set -- "$@" $v;; esac; done </proc/self/status; echo "$@"`

func TestAttributesOfTheFirstProcess(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range attributes {
		t.Run(tt.name, func(t *testing.T) {
			spec := defaultSpec(makeRootfs(t), tt.script)
			tt.change(spec.Process)
			if got, want := run(t, rt, spec), (result{0, tt.want}); got.output != want.output {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// What an exec gets comes from its own process, not from the container's.
func TestAttributesOfAnExec(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, func(s *ocipb.Spec) {
		s.Process.User = &ocipb.User{UID: 99, GID: 99}
		s.Process.OOMScoreAdj, s.Process.OOMScoreAdjUnset = 500, false
		s.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_CORE"}}
	})
	for _, tt := range attributes {
		t.Run(tt.name, func(t *testing.T) {
			p := execProcess(tt.script)
			tt.change(p)
			got, err := execIn(t, c, p)
			if err != nil || got.output != tt.want {
				t.Errorf("got %+v, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestProcessThatIsRefused(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	for _, tt := range []struct {
		name, want string
		change     func(p *ocipb.Process)
	}{
		{"a working directory that is not there", `chdir to cwd ("/nowhere") set in config.json failed: no such file or directory`, func(p *ocipb.Process) { p.Cwd = "/nowhere" }},
		{"a working directory that is a file", `chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`, func(p *ocipb.Process) { p.Cwd = "/etc/passwd" }},
		{"a variable without a value", `process.env "BROKEN" is not a variable with its value`, func(p *ocipb.Process) { p.Env = append(p.Env, "BROKEN") }},
		{"no arguments", "process.args is empty", func(p *ocipb.Process) { p.Args = nil }},
		{"an unknown limit", `process.rlimits type "RLIMIT_X" is unknown`, func(p *ocipb.Process) { p.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_X"}} }},
		{"an unknown scheduling policy", `process.scheduler: policy "SCHED_X" is unknown`, func(p *ocipb.Process) { p.Scheduler = &ocipb.LinuxScheduler{Policy: "SCHED_X"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := execProcess("true")
			tt.change(p)
			if _, err := execIn(t, c, p); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// A working directory that leads out of the container through a descriptor,
// CVE-2024-21626.
func TestWorkingDirectoryOutside(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	for fd := range 12 {
		cwd := fmt.Sprintf("/proc/self/fd/%d", fd)
		p := execProcess("pwd")
		p.Cwd = cwd
		if got, err := execIn(t, c, p); err == nil {
			t.Errorf("exec in %s: %+v", cwd, got)
		}
		spec := defaultSpec(makeRootfs(t), "pwd")
		spec.Process.Cwd = cwd
		if c, _, err := create(t, rt, spec); err == nil {
			t.Errorf("container in %s: created", cwd)
			_ = c.Start(testContext(t))
		}
	}
}

func TestSignals(t *testing.T) {
	rt := testRuntime(t)
	t.Run("SIGTERM reaches a handler", func(t *testing.T) {
		c, out := started(t, rt, defaultSpec(makeRootfs(t), "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"))
		out.waitFor(t, "ready")
		if err := c.Init().Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if got := (result{wait(t, c.Init()), out.String()}); got != (result{3, "ready\ncaught\n"}) {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("SIGTERM is ignored by a first process without one, and kills an exec", func(t *testing.T) {
		c := sleeper(t, rt)
		if err := c.Init().Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p, err := execAs(testContext(t), c, "e", execProcess("exec sleep 100000"), plan.Names{}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := wait(t, p); status != 143 {
			t.Errorf("status %d, want 143", status)
		}
		if status := c.Status(); status != Running {
			t.Errorf("the container is %v", status)
		}
		if err := p.Signal(unix.SIGTERM); err != ErrNotRunning {
			t.Errorf("signal to an ended process: %v", err)
		}
	})
	t.Run("SIGKILL to all", func(t *testing.T) {
		c := sleeper(t, rt)
		p, err := execAs(testContext(t), c, "e", execProcess("sleep 100000 & sleep 100000"), plan.Names{}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SignalAll(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if a, b := wait(t, c.Init()), wait(t, p); a != 137 || b != 137 {
			t.Errorf("status %d and %d, want 137", a, b)
		}
	})
	t.Run("another signal to all", func(t *testing.T) {
		c := sleeper(t, rt)
		p, err := execAs(testContext(t), c, "e", execProcess("exec sleep 100000"), plan.Names{}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SignalAll(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if status := wait(t, p); status != 129 {
			t.Errorf("status %d, want 129", status)
		}
	})
}

// waitFor returns when the output holds text.
func (o *output) waitFor(t testing.TB, text string) {
	t.Helper()
	ctx := testContext(t)
	for {
		o.mu.Lock()
		found, changed := strings.Contains(o.text.String(), text), o.changed
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%q was not written", text)
		}
	}
}
