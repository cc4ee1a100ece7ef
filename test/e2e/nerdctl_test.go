//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kata/test/harness"
	"kata/test/nerdctl"
)

// nerdctl is the client that people type. It looks at containers through /proc
// more than ctr does, has its network made by hooks, and reads logs by a program
// that containerd starts.

// nerd is nerdctl, working on the node.
type nerd struct {
	*test
	program, data string
}

// nerdctl runs the command and returns how it ended.
func (t *nerd) nerdctl(args ...string) harness.Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := t.command(t.ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := harness.Result{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Err: err, Code: -1}
	if cmd.ProcessState != nil {
		r.Code = cmd.ProcessState.ExitCode()
	}
	return r
}

func (t *nerd) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.program, append([]string{
		"--address", filepath.Join(node.Dir(), "c.sock"), "--namespace", harness.Namespace, "--data-root", t.data,
		"--cgroup-manager", "cgroupfs", "--cni-path", "/usr/lib/cni", "--cni-netconfpath", filepath.Join(t.data, "cni"),
	}, args...)...)
	// The hooks, which are nerdctl too, have this environment.
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	return cmd
}

// ok runs the command, wants it to succeed, and returns what it printed.
func (t *nerd) ok(args ...string) string {
	t.Helper()
	r := t.nerdctl(args...)
	if r.Err != nil {
		t.Fatalf("nerdctl %s: %v: %s", strings.Join(args, " "), r.Err, r.Stderr)
	}
	return r.Stdout
}

// arguments are those of "nerdctl run" or "create" for a busybox container.
func (t *nerd) arguments(verb, name string, flags ...string) []string {
	return append([]string{verb, "--pull", "never", "--runtime", t.runtime, "--name", name}, flags...)
}

// sleeper starts a container in the background, which is removed at the end.
func (t *nerd) sleeper(flags ...string) (name string) {
	t.Helper()
	return t.background(flags, "sleep", "1000")
}

func (t *nerd) background(flags []string, command ...string) (name string) {
	t.Helper()
	name = t.container().ID
	t.Cleanup(func() {
		t.ctx = context.WithoutCancel(t.ctx)
		if r := t.nerdctl("rm", "-f", name); r.Err != nil && !strings.Contains(r.Stderr, "no such container") {
			t.Errorf("nerdctl rm: %v: %s", r.Err, r.Stderr)
		}
	})
	t.ok(append(append(t.arguments("run", name, append(flags, "-d")...), busybox), command...)...)
	return name
}

// inspect returns what "nerdctl inspect" tells by a template.
func (t *nerd) inspect(name, template string) string {
	t.Helper()
	return strings.TrimSpace(t.ok("inspect", "--format", template, name))
}

func (t *nerd) pid(name string) int {
	t.Helper()
	pid, err := strconv.Atoi(t.inspect(name, "{{.State.Pid}}"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestNerdctl runs nerdctl on a node of their own, in a network
// namespace in which its bridge may stay.
func TestNerdctl(t *testing.T) {
	program, err := nerdctl.Build(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	options := harness.Options{
		ShimDirs: []string{repo.Bin()}, KataConfig: repo.KataConfig(nil),
		Enter: `exec unshare --net -- sh -ec 'ip link set lo up; exec "$@"' sh "$@"`,
	}
	withNode(t, options, func() {
		if r := node.Ctr(t.Context(), "images", "tag", busybox, "docker.io/"+busybox); r.Err != nil {
			t.Fatal(r.Failure())
		}
		data := t.TempDir()
		for name, f := range map[string]func(*nerd){
			"run with a terminal":              nerdctlTerminal,
			"logs of a detached container":     nerdctlLogs,
			"cp in and out":                    nerdctlCopy,
			"cp into a read-only container":    nerdctlCopyReadonly,
			"top":                              nerdctlTop,
			"stats":                            nerdctlStats,
			"the bridge and the lifecycle":     nerdctlBridge,
			"a network namespace that is made": nerdctlNetns,
			"a memory limit":                   nerdctlMemory,
		} {
			t.Run(name, func(t *testing.T) {
				both(t, func(t *test) { f(&nerd{test: t, program: program, data: data}) })
			})
		}
	})
}

func nerdctlTerminal(t *nerd) {
	name := t.container().ID
	args := append(t.arguments("run", name, "--rm", "-i", "-t", "--net", "none"), busybox, "/bin/sh", "-c", "tty; echo no more; exit 3")
	r := harness.RunOnTerminal(t.command(t.ctx, args...))
	if r.Code != 3 || !strings.Contains(r.Stdout, "/dev/pts/0\r\nno more\r\n") {
		t.Errorf("exit status %d, want 3; it printed %q", r.Code, r.Stdout)
	}
}

// nerdctlMemory: the container sees its own limit at /sys/fs/cgroup, in the version of
// cgroups that it has there.
func nerdctlMemory(t *nerd) {
	const script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
	args := append(t.arguments("run", t.container().ID, "--rm", "-m", "128m", "--net", "none"), busybox, "/bin/sh", "-c", script)
	if got := t.ok(args...); got != "134217728\n" {
		t.Errorf("the limit is %q", got)
	}
}

func nerdctlLogs(t *nerd) {
	name := t.background([]string{"--net", "none"}, "/bin/sh", "-c", "echo to stdout; echo to stderr >&2; exec sleep 1000")
	err := harness.Await(t.ctx, "both lines", func() (bool, error) {
		r := t.nerdctl("logs", name)
		return r.Stdout == "to stdout\n" && strings.Contains(r.Stderr, "to stderr\n"), r.Err
	})
	if err != nil {
		t.Errorf("%v: %+v", err, t.nerdctl("logs", name))
	}
}

func (t *nerd) write(name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func nerdctlCopy(t *nerd) {
	name := t.sleeper("--net", "none")
	in := "in-" + name
	t.ok("cp", t.write(in, "from the host"), name+":/tmp/")
	if _, err := os.Stat(filepath.Join("/tmp", in)); err == nil {
		t.Errorf("the copy is in the host's /tmp")
		_ = os.Remove(filepath.Join("/tmp", in))
	}
	if got := t.ok("exec", name, "cat", "/tmp/"+in); got != "from the host" {
		t.Errorf("the container has %q", got)
	}
	t.ok("exec", name, "/bin/sh", "-c", "mkdir -p /srv/dir; echo from the container >/srv/dir/out; ln -s /srv/dir/out /srv/link")
	out := t.TempDir()
	t.ok("cp", name+":/srv/dir", out)
	if b, err := os.ReadFile(filepath.Join(out, "dir", "out")); err != nil || string(b) != "from the container\n" {
		t.Errorf("the host has %q, %v", b, err)
	}
	t.ok("cp", "-L", name+":/srv/link", filepath.Join(out, "followed"))
	if b, err := os.ReadFile(filepath.Join(out, "followed")); err != nil || string(b) != "from the container\n" {
		t.Errorf("the host has %q by the link, %v", b, err)
	}
}

func nerdctlCopyReadonly(t *nerd) {
	name := t.sleeper("--net", "none", "--read-only")
	if r := t.nerdctl("cp", t.write("in", ""), name+":/tmp/"); r.Err == nil || !strings.Contains(r.Stderr, "read-only") {
		t.Errorf("a copy into it: %v, %q", r.Err, r.Stderr)
	}
}

func nerdctlTop(t *nerd) {
	name := t.sleeper("--net", "none")
	lines := strings.Split(strings.TrimSpace(t.ok("top", name)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], " "+strconv.Itoa(t.pid(name))+" ") {
		t.Errorf("top lists %q, the pid is %d", lines, t.pid(name))
	}
}

// stats tells the container's limit, and the traffic of its network namespace,
// which has none.
func nerdctlStats(t *nerd) {
	name := t.sleeper("--net", "none", "-m", "64m")
	got := strings.TrimSpace(t.ok("stats", "--no-stream", "--format", "{{.MemUsage}} {{.NetIO}}", name))
	if !strings.HasSuffix(got, "/ 64MiB 0B / 0B") {
		t.Errorf("stats are %q", got)
	}
}

// A container on nerdctl's own bridge: the hooks have CNI give its network
// namespace an address, and write when it was started.
func nerdctlBridge(t *nerd) {
	name := t.sleeper()
	id := t.inspect(name, "{{.Id}}")
	address := t.inspect(name, "{{.NetworkSettings.IPAddress}}")
	out, err := exec.Command("nsenter", "-n", "-t", strconv.Itoa(t.pid(name)), "ip", "-4", "-o", "addr", "show", "eth0").CombinedOutput()
	if err != nil || address == "" || !strings.Contains(string(out), " "+address+"/") {
		t.Errorf("inspect tells the address %q, in the network namespace is %q, %v", address, out, err)
	}
	files, err := filepath.Glob(filepath.Join(t.data, "*", "containers", harness.Namespace, id, "lifecycle.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("lifecycle files %q, %v", files, err)
	}
	if b, err := os.ReadFile(files[0]); err != nil || !strings.Contains(string(b), `"started_at":"2`) {
		t.Errorf("the lifecycle file holds %q, %v", b, err)
	}
	// The address is free again when the container is gone.
	t.ok("rm", "-f", name) // which the end of the test may do again
	leases, err := filepath.Glob("/var/lib/cni/networks/bridge/" + address)
	if err != nil || len(leases) > 0 {
		t.Errorf("left are %q, %v", leases, err)
	}
}

// Docker makes a network namespace's path of the pid, as this does.
func nerdctlNetns(t *nerd) {
	first := t.sleeper("--net", "none")
	second := t.sleeper("--net", "container:"+first)
	if a, b := t.link(proc(t.pid(first), "ns/net")), t.link(proc(t.pid(second), "ns/net")); a != b {
		t.Errorf("the second container is in %s, not in %s", b, a)
	}
}
