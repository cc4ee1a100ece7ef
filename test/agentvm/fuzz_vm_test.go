//go:build vm

package agentvm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/api/typespb"
	"kata/test/pace"
)

const (
	// fuzzWorkers call at the same time.
	fuzzWorkers = 8
	// fuzzPatience is how long an answer may take; some calls wait for ever.
	fuzzPatience = 2 * time.Second
	// victim is a running container.
	victim = "victim"
)

// rounds is how many requests each worker sends for each method.
var rounds = flag.Int("rounds", 16, "`requests` that each of 8 workers sends for each method of the API")

// names that make sense in one field or another.
var names = []string{
	victim, "c1", "c2", "c3", "e1", "e2", "pod", "virtio-fs", "blk", "scsi", "ephemeral", "local", "bind", "overlayfs", "9p",
	"nvdimm", "mmioblk", "tmpfs", "ext4", "proc", "sysfs", "cgroup2", "mqueue", "/run/kata-containers/sandbox/x",
	"/run/kata-containers/shared/containers/x", "/tmp/x", "/dev/vda", Rootfs, "/bin/sh", "sh", "sleep", "1000", "pid", "mount", "network",
	"user", "ipc", "uts", "cgroup", "time", "json", "table", "-ef", "eth0", "kernel.shm_rmid_forced", "CAP_CHOWN", "shared", "rslave",
}

// TestNoRequestKillsTheAgent sends requests of random bytes, of absurd fields,
// and sensible ones with one absurd field, to every method, several at a time,
// and DestroySandbox at the end. An agent that dies takes its machine with it.
func TestNoRequestKillsTheAgent(t *testing.T) {
	v := Boot(t, Options{VCPUs: 2}).Sandbox()
	probe := v.Probe()
	v.Run(victim, Spec(Shell("cat; exec sleep 100000")), Streams{})
	idle := probe.Settled()
	client := v.Connect()
	var journal journal
	var workers sync.WaitGroup
	for w := range fuzzWorkers {
		workers.Go(func() { v.bombard(client, uint64(w+1), &journal) })
	}
	workers.Wait()
	if err := client.Err(); err != nil {
		t.Errorf("the connection has ended: %v; the last requests:\n%s", err, journal.String())
	}
	v.Alive()
	probe.File("/proc/1/status") // the probe still runs
	for _, name := range names {
		_, err := v.Agent.RemoveContainer(t.Context(), &agentpb.RemoveContainerRequest{ContainerId: name})
		if code := ttrpc.CodeOf(err); err != nil && code != ttrpc.NotFound && code != ttrpc.InvalidArgument {
			t.Errorf("remove container %s: %v", name, err)
		}
	}
	v.Run("after", Spec(Shell("exit 7")), Streams{}) // whatever was asked for before
	if exit := v.Wait("after", ""); exit.Status != 7 {
		t.Errorf("a container ends with %d, want 7", exit.Status)
	}
	v.Remove("after")
	after := probe.Await(func(m Memory) bool { return m.Anonymous <= idle.Anonymous+2*maxGrowth })
	t.Logf("idle: %v; afterwards: %v", idle, after)
	if grown := after.Anonymous - idle.Anonymous; grown > 2*maxGrowth {
		t.Errorf("%d more bytes are anonymous", grown)
	}
	if _, err := v.Agent.DestroySandbox(t.Context(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Errorf("DestroySandbox: %v", err)
	}
	select {
	case <-v.Machine.Done():
		if tail := v.Machine.ConsoleTail(); strings.Contains(tail, "panic") {
			t.Errorf("the machine did not end well:\n%s", tail)
		}
	case <-time.After(pace.Of(waitLimit)):
		t.Error("the machine does not end")
	}
}

// bombard sends requests to every method but DestroySandbox.
func (v *VM) bombard(client *ttrpc.Client, seed uint64, journal *journal) {
	absurd := NewAbsurd(seed, names...)
	for round := range *rounds {
		for _, m := range Methods() {
			if m.Name == "DestroySandbox" {
				continue
			}
			var req ttrpc.Message
			what := "bytes"
			switch {
			case round%4 == 0:
				req = absurd.Bytes()
			case round%4 == 1 || sensible(m.Name) == nil:
				req, what = absurd.Message(m.Request()), "fields"
			default:
				req = sensible(m.Name)
				what = absurd.Change(req)
			}
			journal.add(fmt.Sprintf("%s, seed %d, round %d, %s: %.200v", m.Name, seed, round, what, req))
			ctx, cancel := context.WithTimeout(v.Context(), pace.Of(fuzzPatience))
			err := m.Call(ctx, client, req)
			cancel()
			if errors.Is(err, ttrpc.ErrClosed) {
				return // TestNoRequestKillsTheAgent says so
			}
			if text := fmt.Sprint(err); strings.Contains(text, "panicked") {
				v.Errorf("%s: %v", journal.last(), err)
			}
		}
	}
}

// sensible returns a request that could be granted, nil where none comes to mind.
func sensible(method string) ttrpc.Message {
	const x = "/run/kata-containers/sandbox/x"
	switch method {
	case "CreateContainer":
		return &agentpb.CreateContainerRequest{ContainerId: "c1", ExecId: "c1", OCI: fullSpec(), Storages: []*agentpb.Storage{
			{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: x, Options: []string{"size=65536"}},
		}}
	case "StartContainer":
		return &agentpb.StartContainerRequest{ContainerId: "c1"}
	case "RemoveContainer":
		return &agentpb.RemoveContainerRequest{ContainerId: "c1", Timeout: 10}
	case "ExecProcess":
		return &agentpb.ExecProcessRequest{ContainerId: victim, ExecId: "e1", Process: Process("sleep", "1")}
	case "WaitProcess":
		return &agentpb.WaitProcessRequest{ContainerId: victim, ExecId: "e1"}
	case "UpdateContainer":
		return &agentpb.UpdateContainerRequest{ContainerId: victim, Resources: &ocipb.LinuxResources{
			CPU: &ocipb.LinuxCPU{Shares: 100}, Memory: &ocipb.LinuxMemory{Limit: 64 << 20}, Pids: &ocipb.LinuxPids{Limit: 100},
		}}
	case "StatsContainer":
		return &agentpb.StatsContainerRequest{ContainerId: victim}
	case "ListProcesses":
		return &agentpb.ListProcessesRequest{ContainerId: victim, Format: "table"}
	case "PauseContainer":
		return &agentpb.PauseContainerRequest{ContainerId: "c1"}
	case "ResumeContainer":
		return &agentpb.ResumeContainerRequest{ContainerId: "c1"}
	case "SignalProcess":
		return &agentpb.SignalProcessRequest{ContainerId: victim, ExecId: "e1", Signal: 15}
	case "WriteStdin":
		return &agentpb.WriteStreamRequest{ContainerId: victim, Data: []byte("x")}
	case "ReadStdout", "ReadStderr":
		return &agentpb.ReadStreamRequest{ContainerId: victim, Len: 100}
	case "TtyWinResize":
		return &agentpb.TtyWinResizeRequest{ContainerId: victim, Row: 25, Column: 80}
	case "CopyFile":
		return &agentpb.CopyFileRequest{Path: "/run/kata-containers/shared/containers/x", FileSize: 1, FileMode: 0o100644, DirMode: 0o755, Data: []byte("x")}
	case "UpdateEphemeralMounts":
		return &agentpb.UpdateEphemeralMountsRequest{Storages: []*agentpb.Storage{
			{Driver: "ephemeral", Fstype: "tmpfs", MountPoint: x, Options: []string{"size=1048576"}},
		}}
	case "SetGuestDateTime":
		return &agentpb.SetGuestDateTimeRequest{Sec: time.Now().Unix(), Usec: 1}
	case "GetDiagnosticData":
		return &agentpb.GetDiagnosticDataRequest{LogType: "termination-log", ContainerId: victim}
	case "UpdateRoutes":
		return &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{{Dest: "10.1.0.0/16", Device: "lo"}}}}
	case "UpdateInterface":
		return &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{
			Device: "lo", Name: "lo", Mtu: 1500, HwAddr: "00:00:00:00:00:00", IPAddresses: []*typespb.IPAddress{{Address: "10.9.0.1", Mask: "24"}},
		}}
	case "AddARPNeighbors":
		return &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{
			{ToIPAddress: &typespb.IPAddress{Address: "10.9.0.2"}, Device: "lo", Lladdr: "02:00:00:00:00:01", State: 0x80},
		}}}
	case "SetIPTables":
		return &agentpb.SetIPTablesRequest{Data: []byte("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n")}
	}
	return nil
}

// fullSpec is a spec that has something in most places.
func fullSpec() *ocipb.Spec {
	spec := Spec(Process("sleep", "1000"))
	spec.Hostname = "c1"
	spec.Annotations = map[string]string{"a": "b"}
	spec.Process.Capabilities = &ocipb.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}}
	spec.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 100, Soft: 100}}
	spec.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1"}
	spec.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/dev/test", Type: "c", Major: 1, Minor: 3, FileMode: 0o666}}
	spec.Linux.Resources = &ocipb.LinuxResources{
		Devices: []*ocipb.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: 1, Minor: 3, Access: "rwm"}},
		Memory:  &ocipb.LinuxMemory{Limit: 64 << 20}, CPU: &ocipb.LinuxCPU{Shares: 100, Quota: 50000, Period: 100000}, Pids: &ocipb.LinuxPids{Limit: 100},
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	spec.Linux.RootfsPropagation = "rslave"
	return spec
}

// journal remembers the last requests.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) == 4*fuzzWorkers {
		j.lines = j.lines[1:]
	}
	j.lines = append(j.lines, line)
}

func (j *journal) last() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines[len(j.lines)-1]
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}
