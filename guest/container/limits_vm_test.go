//go:build vmtest

package container

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/plan"
)

func limits(r *ocipb.LinuxResources) func(*ocipb.Spec) {
	return func(s *ocipb.Spec) { s.Linux.Resources = r }
}

func TestLimitsInTheKernel(t *testing.T) {
	rt := testRuntime(t)
	number := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name, script, want string
		resources          *ocipb.LinuxResources
	}{
		{"memory", "cat memory.max memory.low", "67108864\n33554432\n", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 64 << 20, Reservation: 32 << 20}}},
		{"swap", "cat memory.swap.max", "0\n", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 64 << 20, Swap: 64 << 20}}},
		{"cpu", "cat cpu.max cpu.weight", "20000 50000\n20\n", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: 20000, Period: 50000, Shares: 512}}},
		{"idle", "cat cpu.idle", "1\n", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Idle: number(1), Shares: 512}}},
		{"cpuset", "cat cpuset.cpus.effective cpuset.mems.effective; nproc", "0\n0\n1\n", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Cpus: "0", Mems: "0"}}},
		{"pids", "cat pids.max; (for i in 1 2 3 4 5 6 7 8; do sleep 1000 >/dev/null 2>&1 & done) 2>/tmp/said; grep -o \"can't fork\" /tmp/said", "5\ncan't fork\n", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 5}}},
		{"a limit of one task", "cat pids.max 2>/dev/null || exec cat pids.max", "1\n", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 1}}},
		{"unified", "cat memory.high pids.max", "50331648\n9\n", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 5}, Unified: map[string]string{"memory.high": "48M", "pids.max": "9"}}},
		{"huge pages", "cat hugetlb.2MB.max", "4194304\n", &ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}},
		{"no devices but its own", "mknod /dev/x c 1 11; cat /dev/x 2>&1 | grep -o 'Operation not permitted'; echo hi >/dev/null && head -c 1 /dev/zero | wc -c", "Operation not permitted\n1\n", &ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := in(makeRootfs(t), "cd /sys/fs/cgroup; "+tt.script, limits(tt.resources))
			if strings.Contains(tt.name, "one task") {
				spec.Process.Args = []string{"cat", "/sys/fs/cgroup/pids.max"}
			}
			if got := run(t, rt, spec); got.output != tt.want {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
}

// With or without a namespace in the spec, whatever version the mount is for.
func TestContainerSeesItsOwnCgroup(t *testing.T) {
	rt := testRuntime(t)
	const script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat pids.max memory.max cpu.max; grep -cx $$ cgroup.procs; " +
		"grep -o ' / /sys/fs/cgroup ' /proc/self/mountinfo; echo 7 2>/dev/null >pids.max || echo refused"
	const want = "0::/\n20\n67108864\n50000 100000\n1\n / /sys/fs/cgroup \nrefused\n"
	for name, change := range map[string]func(*ocipb.Spec){
		"with a namespace":    func(*ocipb.Spec) {},
		"without a namespace": withoutNamespace("cgroup"),
		"a mount of cgroup2":  func(s *ocipb.Spec) { s.Mounts[6].Type = "cgroup2" },
		"users of its own": func(s *ocipb.Spec) {
			withoutNamespace("cgroup")(s)
			inUsers(t)(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := in(makeRootfs(t), script+"; exec sleep 1000", limits(&ocipb.LinuxResources{
				Pids: &ocipb.LinuxPids{Limit: 20}, Memory: &ocipb.LinuxMemory{Limit: 64 << 20}, CPU: &ocipb.LinuxCPU{Quota: 50000},
			}))
			change(spec)
			c, out := started(t, rt, spec)
			out.waitFor(t, want)
			if got, err := execIn(t, c, execProcess(script)); err != nil || got.output != want {
				t.Errorf("an exec: %+v, %v; want %q", got, err, want)
			}
		})
	}
}

// withoutNamespace takes the namespace of a kind out of a spec.
func withoutNamespace(kind string) func(*ocipb.Spec) {
	return func(s *ocipb.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n *ocipb.LinuxNamespace) bool { return n.Type == kind })
	}
}

func TestOutOfMemory(t *testing.T) {
	rt := testRuntime(t)
	c, _ := started(t, rt, in(makeRootfs(t), "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60", limits(&ocipb.LinuxResources{
		Memory: &ocipb.LinuxMemory{Limit: 16 << 20, Swap: 16 << 20},
	})))
	if status := wait(t, c.Init()); status != 137 {
		t.Errorf("status %d, want 137", status)
	}
	stats, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if kills := stats.MemoryStats.Events["oom_kill"]; kills != 1 {
		t.Errorf("%d kills counted, want 1", kills)
	}
}

func TestStats(t *testing.T) {
	rt := testRuntime(t)
	c, out := started(t, rt, in(makeRootfs(t), "dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo ready; sleep 1000", limits(&ocipb.LinuxResources{
		Memory: &ocipb.LinuxMemory{Limit: 64 << 20}, Pids: &ocipb.LinuxPids{Limit: 20},
		CPU: &ocipb.LinuxCPU{Quota: 5000, Period: 20000},
	})))
	out.waitFor(t, "ready")
	s, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"processor time": s.CpuStats.CpuUsage.TotalUsage > 1e6,
		"user time":      s.CpuStats.CpuUsage.UsageInUsermode > 0,
		"kernel time":    s.CpuStats.CpuUsage.UsageInKernelmode > 0,
		"throttled":      s.CpuStats.ThrottlingData.ThrottledPeriods > 0 && s.CpuStats.ThrottlingData.ThrottledTime > 0,
		"memory":         s.MemoryStats.Usage.Usage > 8<<20,
		"peak":           s.MemoryStats.Usage.MaxUsage >= s.MemoryStats.Usage.Usage,
		"memory limit":   s.MemoryStats.Usage.Limit == 64<<20,
		"page cache":     s.MemoryStats.Cache >= 8<<20,
		"kernel memory":  s.MemoryStats.KernelUsage.Usage > 0,
		"memory.stat":    s.MemoryStats.Stats["shmem"] >= 8<<20,
		"tasks":          s.PidsStats.Current >= 1 && s.PidsStats.Limit == 20,
		"huge pages":     s.HugetlbStats["2MB"] != nil,
	} {
		if !ok {
			t.Errorf("%s is wrong: %v %v %v", what, s.CpuStats, s.MemoryStats, s.PidsStats)
		}
	}
}

func TestUpdate(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, limits(&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 64 << 20}, Pids: &ocipb.LinuxPids{Limit: 10}}))
	if err := c.Update(&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 32 << 20}, CPU: &ocipb.LinuxCPU{Quota: 10000}}); err != nil {
		t.Fatal(err)
	}
	got, err := execIn(t, c, execProcess("cd /sys/fs/cgroup; cat memory.max cpu.max pids.max"))
	if want := "33554432\n10000 100000\n10\n"; err != nil || got.output != want {
		t.Errorf("got %+v, %v; want %q", got, err, want)
	}
}

// The guest has processors 0 and 1. Others are the host's: what is asked for is
// kept, and set anew when the guest has got more.
func TestProcessorsOfAHost(t *testing.T) {
	rt := testRuntime(t)
	const script = "cd /sys/fs/cgroup; cat cpuset.cpus cpuset.cpus.effective cpuset.mems.effective"
	placed := func(cpus, mems string) *ocipb.LinuxResources {
		return &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Cpus: cpus, Mems: mems}}
	}
	c := sleeper(t, rt, limits(placed("2-3", "1")))
	look := func(want string) {
		t.Helper()
		if got, err := execIn(t, c, execProcess(script)); err != nil || got.output != want {
			t.Errorf("got %+v, %v; want %q", got, err, want)
		}
	}
	look("0-1\n0-1\n0\n")
	if err := c.Update(placed("700", "")); err != nil {
		t.Fatal(err)
	}
	look("0\n0\n0\n")
	for name, r := range map[string]*ocipb.LinuxResources{
		"unified": {Unified: map[string]string{"cpuset.cpus": "1,5"}}, "of the guest": placed("1", "0"),
	} {
		if err := c.Update(r); err != nil {
			t.Fatal(name, err)
		}
		look("1\n1\n0\n")
	}
	if err := c.Update(placed("2", "")); err != nil {
		t.Fatal(err)
	}
	// One processor less, and it is back.
	online := func(n string) {
		t.Helper()
		if err := os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte(n), 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Cgroup().Refit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Update(placed("1,3", "")); err != nil {
		t.Fatal(err)
	}
	online("0")
	look("0\n0\n0\n")
	online("1")
	look("1\n1\n0\n")
	for list, want := range map[string]string{"1-": "is not a list", "8192": "goes beyond"} {
		if err := c.Update(placed(list, "")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", list, err, want)
		}
	}
}

// What only the real root may do.
func TestPowersOfRoot(t *testing.T) {
	rt := testRuntime(t)
	spec := defaultSpec(makeRootfs(t), "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj")
	spec.Process.OOMScoreAdj, spec.Process.OOMScoreAdjUnset = -998, false
	spec.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 600000, Hard: 700000}}
	spec.Process.User = &ocipb.User{UID: 1000}
	if got, want := run(t, rt, spec), (result{0, "600000\n700000\n-998\n"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// privileged gives a container every capability and its cgroup to write to.
func privileged(s *ocipb.Spec) {
	all := []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_SYS_RESOURCE"}
	s.Process.Capabilities = &ocipb.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	s.Process.NoNewPrivileges = false
	for _, m := range s.Mounts {
		if m.Type == "cgroup" {
			m.Options = []string{"nosuid", "noexec", "nodev"}
		}
	}
}

// A container that divides its cgroup among its own, as systemd does, has no
// processes in it, and none may be put there.
func TestExecIntoADividedCgroup(t *testing.T) {
	rt := testRuntime(t)
	c, out := started(t, rt, in(makeRootfs(t), "cd /sys/fs/cgroup && mkdir leaf && echo 1 >leaf/cgroup.procs && echo +pids >cgroup.subtree_control && echo ready; exec sleep 100000", privileged))
	out.waitFor(t, "ready")
	got, err := execIn(t, c, execProcess("grep ^0:: /proc/self/cgroup"))
	if err != nil || got.output != "0::/leaf\n" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A container that stops itself stops no one else: an exec into it stands still
// like the rest, and the container can be removed.
func TestContainerThatFreezesItself(t *testing.T) {
	rt := testRuntime(t)
	c, out := started(t, rt, in(makeRootfs(t), "echo ready; echo 1 >/sys/fs/cgroup/cgroup.freeze; exec sleep 100000", privileged))
	out.waitFor(t, "ready")
	if err := c.Cgroup().Freeze(testContext(t)); err != nil { // returns when it is so
		t.Fatal(err)
	}
	stuck, err := execAs(testContext(t), c, "stuck", execProcess("true"), plan.Names{}, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if frozen, err := c.Cgroup().Frozen(); err != nil || !frozen {
		t.Errorf("frozen with an exec: %v, %v", frozen, err)
	}
	if got := run(t, rt, defaultSpec(makeRootfs(t), "echo alive")); got.output != "alive\n" {
		t.Errorf("another container: %+v", got)
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Error(err)
	}
	if status := wait(t, stuck); status != 137 {
		t.Errorf("status %d of the exec", status)
	}
}

// A privileged container finds nothing of the agent: not its mounts, not its
// processes, and the stage of an exec cannot be looked into.
func TestPrivilegedContainer(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, privileged)
	p := execProcess("ls -d /proc/[0-9]*; umount -l /; ls /; cat /proc/self/mountinfo 2>/dev/null | wc -l")
	p.Capabilities = &ocipb.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}, Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}
	p.NoNewPrivileges = false
	got, err := execIn(t, c, p)
	if err != nil || strings.Contains(got.output, "package.test") {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := c.Init().Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// The image makes the agent's own binary its command (CVE-2019-5736): it runs,
// finds that it was not started by the runtime, and ends.
func TestStageAsCommand(t *testing.T) {
	rt := testRuntime(t)
	for _, args := range [][]string{
		{"/proc/self/exe", "init"},
		{"/proc/self/exe", "init", "create", "x"},
		{"/proc/self/exe", "init", "exec", "x"},
	} {
		spec := defaultSpec(makeRootfs(t), "")
		spec.Process.Args = args
		if got := run(t, rt, spec); got != (result{1, ""}) {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// The hook forks twice; the container may have one process.
func TestHookInAContainerAtItsLimits(t *testing.T) {
	rt := testRuntime(t)
	spec := in(makeRootfs(t), "", limits(&ocipb.LinuxResources{
		Pids: &ocipb.LinuxPids{Limit: 1}, CPU: &ocipb.LinuxCPU{Quota: 1000, Period: 100000},
	}))
	spec.Process.Args = []string{"cat", "/noted", "/proc/self/cgroup", "/sys/fs/cgroup/pids.max"}
	spec.Hooks = &ocipb.Hooks{StartContainer: []*ocipb.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", "export PATH=/bin; cat >/dev/null; echo noted | cat >/noted"},
	}}}
	if got, want := run(t, rt, spec), (result{0, "noted\n0::/\n1\n"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// An exec gets into a container that has reached a limit: what the agent needs for
// it does not count.
func TestExecAtALimit(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		name, script string
		resources    *ocipb.LinuxResources
	}{
		{"of processes", "(while sleep 1000 & do :; done) 2>/dev/null; echo ready; exec sleep 1000", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 20}}},
		{"of one process", "echo ready; exec sleep 1000", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 1}}},
		// dd holds its block; what is left is enough for a small program only.
		{"of memory", "dd if=/dev/zero bs=12M count=9 | (head -c 1; echo ready; exec sleep 1000)", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 16 << 20, Swap: 16 << 20}}},
		{"of processor time", "echo ready; while :; do :; done", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: 1000, Period: 100000}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, out := started(t, rt, in(makeRootfs(t), tt.script, limits(tt.resources)))
			out.waitFor(t, "ready")
			p := execProcess("")
			p.Args = []string{"echo", "in"}
			if got, err := execIn(t, c, p); err != nil || got != (result{0, "in\n"}) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
