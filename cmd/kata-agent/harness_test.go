package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

// These tests run the real agent as an ordinary process in namespaces of its
// own, and drive it as the host does: calls over one connection, streams over
// others. They need root. The test program is the agent: started with testAgent
// in its environment it makes the mounts of a guest and goes on as main.

const testAgent = "KATA_AGENT_TEST"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "init" { // a container's stage
		main()
	}
	if os.Getenv(testAgent) != "" {
		mountGuest()
		startAllocations()
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// mountGuest makes the mounts of a guest in the new mount namespace.
func mountGuest() {
	for _, m := range []struct {
		fstype, target string
		flags          uintptr
	}{
		{"", "/", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", 0},
		{"tmpfs", "/run", 0},
		{"tmpfs", "/sys/fs/cgroup", 0}, // over cgroup v1, where there is one
		{"cgroup2", "/sys/fs/cgroup", 0},
	} {
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, ""); err != nil {
			panic(fmt.Sprintf("mount %s: %v", m.target, err))
		}
	}
}

// guest is a running agent.
type guest struct {
	testing.TB
	dir     string
	process *os.Process
	exited  chan *os.ProcessState
	client  *ttrpc.Client
	agent   *agentpb.AgentServiceClient
	health  *healthpb.HealthClient
	ports   atomic.Uint32
	cgroup  string
}

// startAgent starts an agent that Cleanup stops.
func startAgent(t testing.TB) *guest {
	t.Helper()
	g := &guest{TB: t, dir: t.TempDir(), exited: make(chan *os.ProcessState, 1)}
	g.cgroup = fmt.Sprintf("/katatest%d", time.Now().UnixNano())
	socket := filepath.Join(g.dir, "agent.sock")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"KATA_AGENT_SERVER_ADDR=unix://" + socket, "KATA_AGENT_LOG_LEVEL=warn", testAgent + "=1", testAllocations + "=" + filepath.Join(g.dir, "allocations.sock")}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.process = cmd.Process
	go func() {
		state, _ := g.process.Wait()
		g.exited <- state
	}()
	t.Cleanup(g.stop)
	conn := g.connect(socket)
	g.client = ttrpc.NewClient(conn)
	g.agent, g.health = agentpb.NewAgentServiceClient(g.client), healthpb.NewHealthClient(g.client)
	return g
}

// connect connects to the agent once it listens.
func (g *guest) connect(socket string) net.Conn {
	g.Helper()
	for deadline := time.Now().Add(pace.Of(20 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		// Polling, since nothing tells a process outside a VM.
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn
		}
	}
	g.Fatal("the agent does not listen")
	return nil
}

// stop ends the agent and what it ran, and removes its cgroups.
func (g *guest) stop() {
	if g.client != nil {
		_ = g.client.Close()
	}
	_ = g.process.Kill() // as init of its pid namespace it takes everything with it
	g.exited <- <-g.exited
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		children, _ := filepath.Glob(root + g.cgroup + "/*/cgroup.procs")
		for _, child := range children {
			_ = os.Remove(filepath.Dir(child))
		}
		_ = os.Remove(root + g.cgroup)
	}
}

// sandbox creates the sandbox.
func (g *guest) sandbox() *guest {
	g.Helper()
	_, err := g.agent.CreateSandbox(g.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod", Dns: []string{"nameserver 192.0.2.1"}})
	if err != nil {
		g.Fatal(err)
	}
	return g
}

// rootfs returns a new root file system with busybox.
func (g *guest) rootfs() string {
	g.Helper()
	root := filepath.Join(g.TempDir(), "rootfs")
	for _, dir := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			g.Fatal(err)
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		g.Fatal(err)
	}
	if err := os.WriteFile(root+"/bin/busybox", data, 0o755); err != nil {
		g.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat sleep dd true echo stty") {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil {
			g.Fatal(err)
		}
	}
	return root
}

func process(args ...string) *ocipb.Process {
	return &ocipb.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, User: &ocipb.User{}}
}

// shell returns a process that runs a script.
func shell(script string) *ocipb.Process { return process("sh", "-c", script) }

func (g *guest) spec(id string, p *ocipb.Process) *ocipb.Spec {
	g.Helper()
	return &ocipb.Spec{
		Version: "1.1.0", Process: p, Root: &ocipb.Root{Path: g.rootfs()},
		Mounts: []*ocipb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &ocipb.Linux{
			CgroupsPath: g.cgroup + "/" + id,
			Namespaces:  []*ocipb.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"}},
		},
	}
}

// streams are the host's ends of a process's stream connections.
type streams struct{ stdin, stdout, stderr *hostEnd }

type hostEnd struct {
	*net.UnixConn
	port uint32
}

func (s *hostEnd) number() uint32 {
	if s == nil {
		return 0
	}
	return s.port
}

// dial opens one stream connection.
func (g *guest) dial() *hostEnd {
	g.Helper()
	port := g.ports.Add(1)
	local := filepath.Join(g.dir, fmt.Sprintf("stream.%d", port))
	conn, err := net.DialUnix("unix", &net.UnixAddr{Name: local, Net: "unix"},
		&net.UnixAddr{Name: filepath.Join(g.dir, "agent.sock.streams"), Net: "unix"})
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { _ = conn.Close() })
	return &hostEnd{conn, port}
}

func (g *guest) streams() streams { return streams{g.dial(), g.dial(), g.dial()} }

func (s streams) close() {
	for _, conn := range []*hostEnd{s.stdin, s.stdout, s.stderr} {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// create creates a container.
func (g *guest) create(id string, spec *ocipb.Spec, s streams) error {
	_, err := g.agent.CreateContainer(g.Context(), &agentpb.CreateContainerRequest{
		ContainerId: id, ExecId: id, OCI: spec,
		StdinPort: s.stdin.number(), StdoutPort: s.stdout.number(), StderrPort: s.stderr.number(),
	})
	return err
}

// run creates and starts a container.
func (g *guest) run(id string, p *ocipb.Process, s streams) {
	g.Helper()
	if err := g.create(id, g.spec(id, p), s); err != nil {
		g.Fatal(err)
	}
	if _, err := g.agent.StartContainer(g.Context(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		g.Fatal(err)
	}
}

func (g *guest) exec(id, execID string, p *ocipb.Process, s streams) error {
	_, err := g.agent.ExecProcess(g.Context(), &agentpb.ExecProcessRequest{
		ContainerId: id, ExecId: execID, Process: p,
		StdinPort: s.stdin.number(), StdoutPort: s.stdout.number(), StderrPort: s.stderr.number(),
	})
	return err
}

// wait returns the exit of a process, within a minute.
func (g *guest) wait(id, execID string) *agentpb.WaitProcessResponse {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), pace.Of(time.Minute))
	defer cancel()
	resp, err := g.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: id, ExecId: execID})
	if err != nil {
		g.Fatal(err)
	}
	return resp
}

func (g *guest) remove(id string) {
	g.Helper()
	if _, err := g.agent.RemoveContainer(g.Context(), &agentpb.RemoveContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		g.Error(err)
	}
}

// read reads exactly n bytes.
func (g *guest) read(from *hostEnd, n uint64) string {
	g.Helper()
	data := make([]byte, n)
	if _, err := io.ReadFull(from, data); err != nil {
		g.Errorf("read %d bytes: %v", n, err)
	}
	return string(data)
}

// files returns how many descriptors the agent has open.
func (g *guest) files() int {
	g.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.process.Pid))
	if err != nil {
		g.Fatal(err)
	}
	return len(entries)
}

// mounts returns the agent's mount table.
func (g *guest) mounts() string {
	g.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", g.process.Pid))
	if err != nil {
		g.Fatal(err)
	}
	return string(table)
}

// code fails the test unless err has the code and mentions want.
func (g *guest) code(what string, err error, code ttrpc.Code, want string) {
	g.Helper()
	if got := ttrpc.CodeOf(err); got != code || err == nil || !strings.Contains(err.Error(), want) {
		g.Errorf("%s: %v (%v), want %v with %q", what, err, got, code, want)
	}
}
