//go:build vm

package hotplug

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

// plugCPUs plugs in so many CPUs.
func (v *VM) plugCPUs(n int) {
	v.Helper()
	have, err := v.Machine.ResizeVCPUs(v.Call(), v.vcpus+n)
	v.Must(err)
	v.vcpus = have
}

// cpuset is a container's limit to CPUs; "" is none.
func cpuset(cpus string) *ocipb.LinuxCPU { return &ocipb.LinuxCPU{Cpus: cpus} }

// Exec runs a script in a container that runs, and returns its output.
func (v *VM) Exec(container, script string) string {
	v.Helper()
	v.probes++
	id := fmt.Sprintf("exec%d", v.probes)
	_, err := v.Agent.ExecProcess(v.Call(), &agentpb.ExecProcessRequest{ContainerId: container, ExecId: id, Process: Spec(script).Process})
	v.Must(err)
	var text strings.Builder
	for {
		resp, err := v.Agent.ReadStdout(v.Call(), &agentpb.ReadStreamRequest{ContainerId: container, ExecId: id, Len: 32 << 10})
		if err != nil {
			if strings.Contains(err.Error(), "meet eof") {
				return text.String()
			}
			v.Fatal(err)
		}
		text.Write(resp.Data)
	}
}

// until looks at the guest until it is as it should be. What the kernel does by
// itself nobody tells the host.
func (v *VM) until(what string, is func() bool) {
	v.Helper()
	deadline := time.Now().Add(pace.Of(limit))
	for !is() {
		if time.Now().After(deadline) {
			v.Fatalf("it did not come to that: %s", what)
		}
	}
}

func scan(v *VM, text, format string, values ...any) {
	v.Helper()
	if _, err := fmt.Sscanf(text, format, values...); err != nil {
		v.Fatalf("%q: %v", text, err)
	}
}

func (v *VM) online(request *agentpb.OnlineCPUMemRequest) error {
	_, err := v.Agent.OnlineCPUMem(v.Call(), request)
	return err
}

// plugMemory plugs in so many bytes of memory.
func (v *VM) plugMemory(id string, size int64) {
	v.Helper()
	v.Do("object-add", map[string]any{"qom-type": "memory-backend-memfd", "id": id, "size": size, "share": true})
	v.Do("device_add", map[string]any{"driver": "pc-dimm", "id": "dimm-" + id, "memdev": id})
	v.plain["dimm-"+id] = "" // no power of the driver, whose memory grows by virtio-mem
}

// memoryBlocks returns how many blocks of 128 MiB the guest has.
func (v *VM) memoryBlocks() int {
	v.Helper()
	return strings.Count(v.Shell("ls /sys/devices/system/memory"), "memory")
}

// wantCode fails the test unless err has the code and all of the texts.
func (v *VM) wantCode(err error, code ttrpc.Code, texts ...string) {
	v.Helper()
	if err == nil || ttrpc.CodeOf(err) != code {
		v.Errorf("%v (%v), want %v", err, ttrpc.CodeOf(err), code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			v.Errorf("%v: there is no %q in it", err, text)
		}
	}
}

const onlineCPUs = "cat /sys/devices/system/cpu/online"

// TestCPUsComeOnlineInAscendingOrder also shows that containers use them.
func TestCPUsComeOnlineInAscendingOrder(t *testing.T) {
	v := Boot(t, Options{MaxVCPUs: 12}).Sandbox()
	for name, cpus := range map[string]string{"limited": "0-1", "free": ""} {
		spec := Spec("sleep 1000000")
		spec.Linux.Resources.CPU = cpuset(cpus)
		_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: name, OCI: spec})
		v.Must(err)
		_, err = v.Agent.StartContainer(v.Call(), &agentpb.StartContainerRequest{ContainerId: name})
		v.Must(err)
	}
	v.plugCPUs(11)
	online := 1
	for _, more := range []int{1, 2, 4} { // with cpu10 and cpu11 there
		v.Must(v.online(&agentpb.OnlineCPUMemRequest{Wait: true, NbCpus: uint32(more), CpuOnly: true}))
		online += more
		all := fmt.Sprintf("0-%d\n", online-1)
		if got := v.Shell(onlineCPUs); got != all {
			t.Errorf("after %d more CPUs %q are online, want %q", more, got, all)
		}
		// Also those that started before, at once.
		for name, want := range map[string]string{"free": all, "limited": "0-1\n"} {
			got := v.Exec(name, "grep Cpus_allowed_list /proc/1/status")
			if _, list, _ := strings.Cut(got, "\t"); list != want {
				t.Errorf("container %s uses %q, want %q", name, list, want)
			}
		}
	}
}

// TestOnlineCPUMemWaitsForCPUs asks before they are there.
func TestOnlineCPUMemWaitsForCPUs(t *testing.T) {
	v := Boot(t, Options{MaxVCPUs: 4}).Sandbox()
	for _, wait := range []bool{true, false} {
		done := make(chan error, 1)
		go func() { done <- v.online(&agentpb.OnlineCPUMemRequest{Wait: wait, NbCpus: 1}) }()
		// Another call is answered while that one waits.
		before := v.Shell(onlineCPUs)
		select {
		case err := <-done:
			t.Fatalf("with %q online it did not wait: %v", before, err)
		default:
		}
		v.plugCPUs(1)
		v.Must(<-done)
	}
	if got := v.Shell(onlineCPUs); got != "0-2\n" {
		t.Errorf("%q are online", got)
	}
}

func TestCPUsThatDoNotComeAreReported(t *testing.T) {
	v := Boot(t, Options{MaxVCPUs: 4, Params: []string{"agent.hotplug_timeout=1"}}).Sandbox()
	for _, n := range []uint32{4, 1<<32 - 1} {
		v.wantCode(v.online(&agentpb.OnlineCPUMemRequest{NbCpus: n}), ttrpc.InvalidArgument, fmt.Sprintf("nb_cpus %d", n), "1 of at most 4 CPUs are online")
	}
	v.Must(v.online(&agentpb.OnlineCPUMemRequest{}))
	v.Must(v.online(&agentpb.OnlineCPUMemRequest{CpuOnly: true}))
	if got := v.Shell(onlineCPUs); got != "0\n" {
		t.Errorf("%q are online", got)
	}
	v.plugCPUs(1)
	v.wantCode(v.online(&agentpb.OnlineCPUMemRequest{Wait: true, NbCpus: 2}), ttrpc.DeadlineExceeded, "nb_cpus 2", "1 of 2 CPUs came online", "within 1s")
	if got := v.Shell(onlineCPUs); got != "0-1\n" {
		t.Errorf("%q are online", got)
	}
}

// TestMemoryComesOnline plugs memory in, once by itself and once where the kernel
// leaves that to the agent.
func TestMemoryComesOnline(t *testing.T) {
	for _, policy := range []string{"online", "offline"} {
		v := Boot(t, Options{Args: []string{"-m", "512M,slots=4,maxmem=2G"}, Params: []string{"memhp_default_state=" + policy}}).Sandbox()
		const total = "grep MemTotal /proc/meminfo"
		var before, after int64
		scan(v, v.Shell(total), "MemTotal: %d kB", &before)
		for i := range 2 {
			v.plugMemory(fmt.Sprintf("memory%d", i), 256<<20)
		}
		// The kernel notices in its own time; which blocks are there then, are online.
		v.until("the guest has the memory", func() bool { return v.memoryBlocks() == (512+2*256)/128 })
		v.Must(v.online(&agentpb.OnlineCPUMemRequest{CpuOnly: true}))
		offline := v.Shell("cat /sys/devices/system/memory/memory*/state | grep -c offline || true")
		if (offline == "0\n") != (policy == "online") {
			t.Errorf("%s: %q blocks are offline with cpu_only", policy, offline)
		}
		v.Must(v.online(&agentpb.OnlineCPUMemRequest{Wait: true}))
		if out := v.Shell("cat /sys/devices/system/memory/memory*/state | sort -u"); out != "online\n" {
			t.Errorf("%s: the memory is %q", policy, out)
		}
		scan(v, v.Shell(total), "MemTotal: %d kB", &after)
		if grown := after - before; grown < 500<<10 {
			t.Errorf("%s: the memory has grown by %d KiB", policy, grown)
		}
	}
}

// TestMemoryCanGoAgain unplugs memory that has been in use, and plugs it in anew.
// (QEMU 7.2 aborts when a CPU is unplugged while one thread runs them all.)
func TestMemoryCanGoAgain(t *testing.T) {
	v := Boot(t, Options{MemoryMiB: 256, Args: []string{"-m", "256M,slots=2,maxmem=1G"}}).Sandbox()
	v.Shell("true") // when a container has run the agent has made its settings
	for range 2 {
		v.plugMemory("more", 256<<20)
		v.until("the guest has the memory", func() bool { return v.memoryBlocks() == (256+256)/128 })
		v.Must(v.online(&agentpb.OnlineCPUMemRequest{Wait: true}))
		v.Shell("mount -t tmpfs -o size=90% tmpfs /tmp && dd if=/dev/zero of=/tmp/x bs=1M count=300 2>/dev/null")
		v.Unplug("dimm-more")
		v.Do("object-del", map[string]any{"id": "more"})
		if n := v.memoryBlocks(); n != 256/128 {
			t.Errorf("the guest has %d blocks of memory", n)
		}
	}
}

// TestMemHotplugByProbe hides most of the memory from the kernel and then shows
// it. The firmware has its tables at the end.
func TestMemHotplugByProbe(t *testing.T) {
	v := Boot(t, Options{MemoryMiB: 640, Params: []string{"mem=256M"}}).Sandbox()
	probe := func(addresses ...uint64) error {
		_, err := v.Agent.MemHotplugByProbe(v.Call(), &agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: addresses})
		return err
	}
	details, err := v.Agent.GetGuestDetails(v.Call(), &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	v.Must(err)
	block := details.MemBlockSizeBytes
	if !details.SupportMemHotplugProbe || block == 0 {
		t.Fatalf("the guest cannot be told of memory: %v", details)
	}
	for name, addresses := range map[string][]uint64{
		"none":            nil,
		"in use":          {0},
		"not aligned":     {256<<20 + 1},
		"tables":          {512 << 20},
		"nothing there":   {640 << 20},
		"far away":        {64 << 30},
		"not addressable": {-block},
		"devices":         {0xf8000000},
		"twice":           {256 << 20, 256 << 20},
		"one of two":      {256 << 20, 4 << 30},
	} {
		err := probe(addresses...)
		code := ttrpc.InvalidArgument
		if name == "in use" {
			code = ttrpc.AlreadyExists
		}
		if ttrpc.CodeOf(err) != code || !strings.Contains(err.Error(), "memHotplugProbeAddr") {
			t.Errorf("%s: %v (%v)", name, err, ttrpc.CodeOf(err))
		}
	}
	const blocks = "ls -d /sys/devices/system/memory/memory* | wc -l"
	if out := v.Shell(blocks); out != "2\n" {
		t.Fatalf("there are %q blocks of memory", out)
	}
	v.Must(probe(256<<20, 256<<20+block))
	if out := v.Shell(blocks + "; cat /sys/devices/system/memory/memory*/state | sort -u"); out != "4\nonline\n" {
		t.Errorf("there are %q blocks of memory", out)
	}
	v.wantCode(probe(256<<20), ttrpc.AlreadyExists, "0x10000000")
	// It is memory: more than half of the machine's is used and holds.
	if out := v.Shell("mount -t tmpfs -o size=400m tmpfs /tmp && dd if=/dev/zero of=/tmp/x bs=1M count=300 2>/dev/null && tr -d '\\000' < /tmp/x | wc -c"); out != "0\n" {
		t.Errorf("the new memory holds %q", out)
	}
}
