package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// The scripts drive the real agent, which runs as an ordinary process in
// namespaces of its own. They need root.

// testAgent, in the environment of the test program, is the agent to become.
const testAgent = "KATA_AGENT_CTL_TEST_AGENT"

func TestMain(m *testing.M) {
	if agent := os.Getenv(testAgent); agent != "" {
		mountGuest()
		panic(syscall.Exec(agent, []string{agent}, os.Environ()))
	}
	testscript.Main(m, map[string]func(){"kata-agent-ctl": main})
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

// buildAgent builds the agent and returns its path.
func buildAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kata-agent")
	cmd := exec.Command("go", "build", "-o", path, "kata/cmd/kata-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return path
}

// startAgent starts an agent on a socket and returns how to end it.
func startAgent(agent, socket string) (stop func(), err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{testAgent + "=" + agent, "KATA_AGENT_SERVER_ADDR=unix://" + socket, "KATA_AGENT_LOG_LEVEL=warn"}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill() // as init of its namespace it takes everything with it
		_ = cmd.Wait()
	}
	for deadline := time.Now().Add(pace.Of(20 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		// Polling, since nothing tells a process outside a VM.
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return stop, nil
		}
	}
	stop()
	return nil, fmt.Errorf("the agent does not listen on %s", socket)
}

// writeBundle makes a bundle whose container runs a shell of busybox.
func writeBundle(dir, cgroup string) error {
	root := filepath.Join(dir, "rootfs")
	for _, name := range []string{"bin", "proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	for _, applet := range strings.Fields("sh cat echo sleep true stty") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			return err
		}
	}
	const config = `{
	"ociVersion": "1.1.0", "root": {"path": "rootfs"},
	"process": {"args": ["sh", "-c", "echo from the bundle"], "cwd": "/", "env": ["PATH=/bin"], "user": {}},
	"mounts": [
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}
	],
	"linux": {
		"cgroupsPath": "%s",
		"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
	}
}
`
	return os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, config, cgroup), 0o600)
}

// removeCgroup removes what containers left of a cgroup.
func removeCgroup(cgroup string) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		_ = os.Remove(root + cgroup)
	}
}

// scripts are the commands that scripts have besides testscript's own.
type scripts struct{ agent string }

// start is the command "agent": it starts an agent, whose address is $AGENT
// then, and a bundle for its containers in $WORK/bundle.
func (s scripts) start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: agent")
	}
	socket := ts.MkAbs("agent.sock")
	stop, err := startAgent(s.agent, socket)
	ts.Check(err)
	cgroup := fmt.Sprintf("/katactl%d", time.Now().UnixNano())
	ts.Defer(func() {
		stop()
		removeCgroup(cgroup)
	})
	ts.Check(os.Mkdir(ts.MkAbs("bundle"), 0o755))
	ts.Check(writeBundle(ts.MkAbs("bundle"), cgroup))
	ts.Setenv("AGENT", "unix://"+socket)
}

// status is the command "status N COMMAND...": the command ends with N.
func (s scripts) status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit *exec.ExitError
	if err != nil {
		got = err.Error()
	}
	if e, ok := err.(*exec.ExitError); ok {
		exit = e
		got = fmt.Sprint(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("%s ends with %s, not %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func TestScripts(t *testing.T) {
	s := scripts{buildAgent(t)}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent": s.start, "status": s.status,
		},
	})
}
