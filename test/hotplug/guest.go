package hotplug

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/test/pace"
)

// Sandbox creates the pod.
func (v *VM) Sandbox() *VM {
	v.Helper()
	_, err := v.Agent.CreateSandbox(v.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod"})
	v.Must(err)
	return v
}

// Spec returns a container with a shell script as its process.
func Spec(script string) *ocipb.Spec {
	all := []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_MKNOD", "CAP_CHOWN", "CAP_FOWNER", "CAP_SYS_RAWIO", "CAP_FSETID"}
	return &ocipb.Spec{
		Version: "1.1.0", Root: &ocipb.Root{Path: Rootfs, Readonly: true},
		Process: &ocipb.Process{
			Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}, User: &ocipb.User{},
			Capabilities: &ocipb.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all},
		},
		Mounts: []*ocipb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &ocipb.Linux{
			Resources:  &ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []*ocipb.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}},
		},
	}
}

// Call returns a context for a call that should not take long.
func (v *VM) Call() context.Context {
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(limit))
	v.Cleanup(cancel)
	return ctx
}

// Run creates and starts a container, and returns what it printed when it has
// ended. It stays, to be removed.
func (v *VM) Run(request *agentpb.CreateContainerRequest) string {
	v.Helper()
	if _, err := v.Agent.CreateContainer(v.Call(), request); err != nil {
		v.Fatalf("create container %s: %v", request.ContainerId, err)
	}
	return v.Start(request.ContainerId)
}

// Start starts a container and returns what it printed when it has ended.
func (v *VM) Start(id string) string {
	v.Helper()
	if _, err := v.Agent.StartContainer(v.Call(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		v.Fatalf("start container %s: %v", id, err)
	}
	out := v.read(id, v.Agent.ReadStdout) + v.read(id, v.Agent.ReadStderr)
	exit, err := v.Agent.WaitProcess(v.Call(), &agentpb.WaitProcessRequest{ContainerId: id})
	v.Must(err)
	if exit.Status != 0 {
		v.Fatalf("container %s has exited with %d: %s", id, exit.Status, out)
	}
	return out
}

func (v *VM) read(id string, call func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error)) string {
	v.Helper()
	var text strings.Builder
	for {
		resp, err := call(v.Call(), &agentpb.ReadStreamRequest{ContainerId: id, Len: 32 << 10})
		if err != nil {
			if strings.Contains(err.Error(), "meet eof") {
				return text.String()
			}
			v.Fatalf("read from container %s: %v", id, err)
		}
		text.Write(resp.Data)
	}
}

// Remove removes a container.
func (v *VM) Remove(id string) {
	v.Helper()
	if _, err := v.Agent.RemoveContainer(v.Call(), &agentpb.RemoveContainerRequest{ContainerId: id}); err != nil {
		v.Fatalf("remove container %s: %v", id, err)
	}
}

// Shell runs a script in the guest's own pid namespace, from which the agent can
// be looked at through /proc/1, and returns its output.
func (v *VM) Shell(script string) string {
	v.Helper()
	spec := Spec(script)
	for _, m := range spec.Mounts {
		if m.Destination == "/proc" {
			m.Type, m.Source, m.Options = "bind", "/proc", []string{"bind"}
		}
	}
	spec.Linux.Resources.Devices = []*ocipb.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	v.probes++
	id := fmt.Sprintf("probe%d", v.probes)
	out := v.Run(&agentpb.CreateContainerRequest{ContainerId: id, OCI: spec})
	v.Remove(id)
	return out
}

// Disk makes a file of so many MiB with a file system on it.
func (v *VM) Disk(name string, mib int64, mkfs ...string) string {
	v.Helper()
	file := filepath.Join(v.Dir, name)
	f, err := os.Create(file)
	v.Must(err)
	v.Must(f.Truncate(mib << 20))
	v.Must(f.Close())
	if len(mkfs) > 0 {
		v.Command(append(mkfs, file)...)
	}
	return file
}

// Ext4 is the command that makes a file system of that type, with no more than a
// test needs.
func Ext4() []string { return []string{"mkfs.ext4", "-q", "-F", "-O", "^has_journal"} }

// Command runs a command of the host.
func (v *VM) Command(args ...string) {
	v.Helper()
	cmd := exec.CommandContext(v.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		v.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
