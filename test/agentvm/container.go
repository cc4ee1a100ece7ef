package agentvm

import (
	"context"
	"io"
	"net"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/host/vsock"
	"kata/test/pace"
)

// waitLimit bounds what has to happen soon, on a machine of any speed.
const waitLimit = 2 * time.Minute

// Sandbox creates the pod.
func (v *VM) Sandbox() *VM {
	v.Helper()
	_, err := v.Agent.CreateSandbox(v.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod"})
	v.must(err)
	return v
}

// Process returns a process of root with all it needs.
func Process(args ...string) *ocipb.Process {
	return &ocipb.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, User: &ocipb.User{}}
}

// Shell returns a process that runs a script.
func Shell(script string) *ocipb.Process { return Process("sh", "-c", script) }

// Spec returns a container with the process.
func Spec(p *ocipb.Process) *ocipb.Spec {
	return &ocipb.Spec{
		Version: "1.1.0", Process: p, Root: &ocipb.Root{Path: Rootfs, Readonly: true},
		Mounts: []*ocipb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &ocipb.Linux{
			Namespaces: []*ocipb.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"}},
		},
	}
}

// SeeGuest makes the guest's own /proc that of the container, for a look at the
// agent through /proc/1.
func SeeGuest(spec *ocipb.Spec) {
	for _, m := range spec.Mounts {
		if m.Destination == "/proc" {
			m.Type, m.Source, m.Options = "bind", "/proc", []string{"bind"}
		}
	}
}

// Streams are the host's ends of a process's stream connections; nil ones are
// /dev/null in the guest, and with all nil the streams are served by calls.
type Streams struct{ Stdin, Stdout, Stderr net.Conn }

// Stream opens a stream connection. It ends with the test at the latest.
func (v *VM) Stream() net.Conn {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(waitLimit))
	defer cancel()
	conn, err := v.guest.Dial(ctx, api.PortStreams)
	v.must(err)
	v.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Port is what a request calls a stream.
func Port(conn net.Conn) uint32 {
	if conn == nil {
		return 0
	}
	return conn.LocalAddr().(*vsock.Addr).Port
}

// Create creates a container.
func (v *VM) Create(id string, spec *ocipb.Spec, s Streams) error {
	_, err := v.Agent.CreateContainer(v.Context(), &agentpb.CreateContainerRequest{
		ContainerId: id, ExecId: id, OCI: spec,
		StdinPort: Port(s.Stdin), StdoutPort: Port(s.Stdout), StderrPort: Port(s.Stderr),
	})
	return err
}

// Run creates and starts a container.
func (v *VM) Run(id string, spec *ocipb.Spec, s Streams) {
	v.Helper()
	v.must(v.Create(id, spec, s))
	_, err := v.Agent.StartContainer(v.Context(), &agentpb.StartContainerRequest{ContainerId: id})
	v.must(err)
}

// Exec starts a process in a container.
func (v *VM) Exec(id, execID string, p *ocipb.Process, s Streams) error {
	_, err := v.Agent.ExecProcess(v.Context(), &agentpb.ExecProcessRequest{
		ContainerId: id, ExecId: execID, Process: p,
		StdinPort: Port(s.Stdin), StdoutPort: Port(s.Stdout), StderrPort: Port(s.Stderr),
	})
	return err
}

// Wait returns the exit of a process.
func (v *VM) Wait(id, execID string) *agentpb.WaitProcessResponse {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(waitLimit))
	defer cancel()
	resp, err := v.Agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: id, ExecId: execID})
	v.must(err)
	return resp
}

// Remove removes a container.
func (v *VM) Remove(id string) {
	v.Helper()
	_, err := v.Agent.RemoveContainer(v.Context(), &agentpb.RemoveContainerRequest{ContainerId: id, Timeout: uint32(waitLimit / time.Second)})
	v.must(err)
}

// Read reads exactly n bytes of output.
func (v *VM) Read(from io.Reader, n uint64) string {
	v.Helper()
	data := make([]byte, n)
	_, err := io.ReadFull(from, data)
	v.must(err)
	return string(data)
}
