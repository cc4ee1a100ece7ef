package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
)

func TestPath(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "/ctr"},
		{"/default/abc", "/default/abc"},
		{"relative/abc", "/relative/abc"},
		{"/../../etc", "/etc"},
		{"/a/../../b//c/.", "/b/c"},
		{"system.slice:cri:abc", "/cri/abc"},
		{":cri:abc", "/cri/abc"},
		{"/kubepods/pod:1:2/x", "/kubepods/pod:1:2/x"},
	} {
		got, err := Path(tt.in, "ctr")
		if err != nil || got != tt.want {
			t.Errorf("Path(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []string{"/", "..", "/../", "a:b:", "/a\nb", "x\x00"} {
		if got, err := Path(bad, "ctr"); err == nil {
			t.Errorf("Path(%q) = %q, want an error", bad, got)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/a/../..", "id")
	f.Fuzz(func(t *testing.T, path, id string) {
		got, err := Path(path, id)
		if err == nil && (got[0] != '/' || got == "/" || strings.Contains(got+"/", "/../")) {
			t.Errorf("Path(%q, %q) = %q leaves the root", path, id, got)
		}
	})
}

// cgroup2 returns where this machine has its cgroup v2 hierarchy.
func cgroup2(t *testing.T) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		mount, fs, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(fs, "cgroup2 ") {
			return strings.Fields(mount)[4]
		}
	}
	t.Fatal("this machine has no cgroup2 mount")
	return ""
}

func group(t *testing.T) *Group {
	t.Helper()
	root := cgroup2(t)
	g, err := Create(root, fmt.Sprintf("/katatest%d/%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Destroy(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		_ = os.Remove(fmt.Sprintf("%s/katatest%d", root, os.Getpid()))
	})
	return g
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// inside starts /bin/sh -c script in the group.
func inside(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.dir.Number()}
	cmd.Stderr = new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestGroupOfProcesses(t *testing.T) {
	g := group(t)
	if pids, err := g.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("a new group has %v, %v", pids, err)
	}
	forked := inside(t, g, "sleep 1000 & sleep 1000")
	added := exec.Command("sleep", "1000")
	if err := added.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(added.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	pids, err := g.Pids()
	if err != nil || len(pids) < 2 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{forked, added} {
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGKILL {
			t.Errorf("%v ended with %v", cmd.Args, cmd.ProcessState)
		}
	}
}

func TestFreezeAndThaw(t *testing.T) {
	g := group(t)
	cmd := inside(t, g, "read line; exit 7")
	for range 2 {
		if err := g.Freeze(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); !frozen || err != nil {
			t.Errorf("frozen %v, %v", frozen, err)
		}
		if err := g.Thaw(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); frozen || err != nil {
			t.Errorf("frozen after Thaw: %v, %v", frozen, err)
		}
	}
	// SIGKILL goes through a freeze, so a paused container can be removed.
	if err := g.Freeze(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := g.Destroy(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

// A group without processes never reports frozen, so the wait lasts until the
// context ends, and the freeze is taken back.
func TestFreezeEndsWithItsContext(t *testing.T) {
	g := group(t)
	e, err := g.events()
	if err != nil || e.populated {
		t.Fatalf("%+v, %v", e, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.await(ctx, func(events) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.await(ctx, func(events) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestDestroy(t *testing.T) {
	g := group(t)
	if err := inside(t, g, fmt.Sprintf("mkdir -p %s/a/b/c %s/a/d %s/e", g.path, g.path, g.path)).Wait(); err != nil {
		t.Fatal(err)
	}
	cmd := inside(t, g, "sleep 1000 & exec sleep 1000")
	go func() { _ = cmd.Wait() }()
	if err := g.Destroy(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group is still there: %v", err)
	}
	if err := g.Destroy(context.Background()); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

func TestCreateRefusesAGroupInUse(t *testing.T) {
	g := group(t)
	cmd := inside(t, g, "exec sleep 1000")
	if _, err := Create(cgroup2(t), strings.TrimPrefix(g.path, cgroup2(t))); err == nil || !strings.Contains(err.Error(), "processes") {
		t.Errorf("error %v", err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// The kernel accepts the program and asks it.
func TestDeviceRulesInTheKernel(t *testing.T) {
	g := group(t)
	dir, err := os.MkdirTemp("/dev", "katatest") // elsewhere devices may not work
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for i, tt := range []struct {
		rules  []*ocipb.LinuxDeviceCgroup
		script string
		want   int
	}{
		{[]*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}}, "mknod $D/a c 1 1 && : <$D/a", 1},
		{[]*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}}, ": >/dev/null && : </dev/zero", 0},
		{[]*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}, {Allow: true, Type: "c", Major: 1, Minor: 11, Access: "r"}}, "mknod $D/b c 1 11 && : <$D/b", 0},
		{[]*ocipb.LinuxDeviceCgroup{{Major: -1, Minor: -1, Access: "rwm"}, {Allow: true, Type: "c", Major: 1, Minor: 11, Access: "r"}}, "mknod $D/c c 1 11 && : >$D/c", 1},
		{[]*ocipb.LinuxDeviceCgroup{{Allow: true, Major: -1, Minor: -1, Access: "rwm"}}, ": >$D/c", 0},
	} {
		if err := g.Apply(&ocipb.LinuxResources{Devices: tt.rules}); err != nil {
			t.Fatal(err)
		}
		cmd := inside(t, g, "D="+dir+"; "+tt.script)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); (got == 0) != (tt.want == 0) {
			t.Errorf("case %d: %s: exit %d, want %d: %s", i, tt.script, got, tt.want, cmd.Stderr)
		}
	}
}

func TestSettings(t *testing.T) {
	two, zero, one := uint32(2), int64(0), int64(1)
	burst := uint64(5000)
	for _, tt := range []struct {
		name string
		in   *ocipb.LinuxResources
		want string
	}{
		{"nothing", &ocipb.LinuxResources{}, ""},
		{"zeros mean unset", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{}, Memory: &ocipb.LinuxMemory{}}, ""},
		{"smallest shares", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Shares: 2}}, "cpu.weight=1"},
		{"default shares", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Shares: 1024}}, "cpu.weight=39"},
		{"largest shares and more", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Shares: 1 << 40}}, "cpu.weight=10000"},
		{"quota without a period", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: 50000}}, "cpu.max=50000 100000"},
		{"quota and period", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: 10000, Period: 20000}}, "cpu.max=10000 20000"},
		{"quota taken away", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: -1}}, "cpu.max=max 100000"},
		{"burst is tried before the quota and comes after it", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: 1000, Burst: &burst}}, "cpu.max.burst=5000; cpu.max=1000 100000; cpu.max.burst=5000"},
		{"an idle group has no weight", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Shares: 1024, Idle: &one}}, "cpu.idle=1"},
		{"idle is taken away before the weight", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Shares: 2, Idle: &zero}}, "cpu.idle=0; cpu.weight=1"},
		{"cpus and nodes", &ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Cpus: "0-1", Mems: "0"}}, "cpuset.cpus=0-1; cpuset.mems=0"},
		{"memory", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 1 << 20, Reservation: 1 << 19}}, "memory.max=1048576; memory.low=524288"},
		{"swap is without memory", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 100, Swap: 150}}, "memory.swap.max=50; memory.max=100"},
		{"no swap", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 100, Swap: 100}}, "memory.swap.max=0; memory.max=100"},
		{"unlimited", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: -1, Swap: -1}}, "memory.swap.max=max; memory.max=max"},
		{"unlimited memory has unlimited swap", &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: -1}}, "memory.swap.max=max; memory.max=max"},
		{"pids", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 10}}, "pids.max=10"},
		{"unlimited pids", &ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: -1}}, "pids.max=max"},
		{"i/o", &ocipb.LinuxResources{BlockIO: &ocipb.LinuxBlockIO{
			Weight:                500,
			WeightDevice:          []*ocipb.LinuxWeightDevice{{Major: 8, Weight: 10}},
			ThrottleReadBpsDevice: []*ocipb.LinuxThrottleDevice{{Major: 8, Minor: 1, Rate: 1000}},
			ThrottleWriteIOPSDevice: []*ocipb.LinuxThrottleDevice{
				{Major: 8, Minor: 1},
			},
		}}, "io.weight=default 4950; io.weight=8:0 1; io.max=8:1 rbps=1000; io.max=8:1 wiops=max"},
		{"huge pages", &ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}}, "hugetlb.2MB.max=4; hugetlb.2MB.rsvd.max=4"},
		{"rdma in order of names", &ocipb.LinuxResources{Rdma: map[string]*ocipb.LinuxRdma{"b": {HcaHandles: &two}, "a": nil}}, "rdma.max=a hca_handle=max hca_object=max; rdma.max=b hca_handle=2 hca_object=max"},
		{"unified comes last and by lines", &ocipb.LinuxResources{
			Pids: &ocipb.LinuxPids{Limit: 1}, Unified: map[string]string{"pids.max": "7", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"},
		}, "pids.max=1; io.max=8:0 rbps=1; io.max=8:16 rbps=2; pids.max=7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, err := (&Group{}).settings(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range all {
				got = append(got, s.file+"="+s.value)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSettingsRefused(t *testing.T) {
	for _, tt := range []struct {
		in   *ocipb.LinuxResources
		want string
	}{
		{&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Swap: 5}}, "without a memory limit"},
		{&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: -1, Swap: 5}}, "unlimited memory"},
		{&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 10, Swap: 5}}, "below the memory limit 10"},
		{&ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{{Pagesize: "../x"}}}, `"../x"`},
		{&ocipb.LinuxResources{Unified: map[string]string{"../memory.max": "1"}}, `"../memory.max"`},
		{&ocipb.LinuxResources{Unified: map[string]string{"cgroup.freeze": "1"}}, `"cgroup.freeze"`},
	} {
		if _, err := (&Group{}).settings(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v does not hold %s", err, tt.want)
		}
	}
}

func TestApplyNamesWhatTheKernelRefuses(t *testing.T) {
	g := group(t)
	err := g.Apply(&ocipb.LinuxResources{Unified: map[string]string{"cgroup.max.depth": "nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "write nonsense to cgroup.max.depth") {
		t.Errorf("error %v", err)
	}
	err = g.Apply(&ocipb.LinuxResources{Unified: map[string]string{"nosuch.max": "1"}})
	if err == nil || !strings.Contains(err.Error(), "nosuch.max") {
		t.Errorf("error %v", err)
	}
	if err := g.Apply(nil); err != nil {
		t.Error(err)
	}
}

func TestStatsOfABusyGroup(t *testing.T) {
	g := group(t)
	cmd := inside(t, g, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	stats, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.CpuStats.CpuUsage.TotalUsage == 0 {
		t.Errorf("no processor time: %+v", stats.CpuStats)
	}
}

// messages lets cmp compare protobuf messages by their fields.
var messages = cmpopts.IgnoreUnexported(agentpb.BlkioStats{}, agentpb.BlkioStatsEntry{}, agentpb.PressureStats{}, agentpb.PressureLine{})

func TestIOStats(t *testing.T) {
	got := ioStats("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nnonsense\n254:16 rbytes=x wios=9\n\n")
	want := &agentpb.BlkioStats{
		IoServiceBytesRecursive: []*agentpb.BlkioStatsEntry{
			{Major: 8, Op: "Read", Value: 1}, {Major: 8, Op: "Write", Value: 2}, {Major: 8, Op: "Discard", Value: 5},
		},
		IoServicedRecursive: []*agentpb.BlkioStatsEntry{
			{Major: 8, Op: "Read", Value: 3}, {Major: 8, Op: "Write", Value: 4}, {Major: 8, Op: "Discard", Value: 6},
			{Major: 254, Minor: 16, Op: "Write", Value: 9},
		},
	}
	if diff := cmp.Diff(want, got, messages); diff != "" {
		t.Error(diff)
	}
}

func TestParsePressure(t *testing.T) {
	got := parsePressure("some avg10=1.25 avg60=0.00 avg300=12.00 total=99\nfull avg10=0.01 avg60=0.00 avg300=0.00 total=3\n")
	want := &agentpb.PressureStats{
		Some: &agentpb.PressureLine{Avg10: 125, Avg300: 1200, Total: 99},
		Full: &agentpb.PressureLine{Avg10: 1, Total: 3},
	}
	if diff := cmp.Diff(want, got, messages); diff != "" {
		t.Error(diff)
	}
	if parsePressure("") != nil {
		t.Error("no file gives numbers")
	}
}

func TestParseFlat(t *testing.T) {
	got := parseFlat("usage_usec 12\nanon 18446744073709551615\nbroken\nx y\n")
	want := map[string]uint64{"usage_usec": 12, "anon": math.MaxUint64}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
