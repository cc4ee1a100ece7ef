//go:build vmtest

package container

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/fault"
)

// loopDevice is a block device for limits; it need not be used. Its numbers are
// those of loop0.
func loopDevice(t *testing.T) (major, minor int64) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	// Weights are for devices whose cost is controlled (cgroup-v2.rst, io.cost.qos).
	if err := os.WriteFile("/sys/fs/cgroup/io.cost.qos", []byte("7:0 enable=1"), 0); err != nil {
		t.Fatal(err)
	}
	return 7, 0
}

// Every kind of limit is set, changed while the container runs, taken away, and
// read back from the kernel's files after each step.
func TestUpdatesInTheKernel(t *testing.T) {
	rt := testRuntime(t)
	n := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	major, minor := loopDevice(t)
	throttle := func(rate uint64) []*ocipb.LinuxThrottleDevice {
		return []*ocipb.LinuxThrottleDevice{{Major: major, Minor: minor, Rate: rate}}
	}
	type step struct {
		r    *ocipb.LinuxResources
		want string
	}
	memory := func(limit, swap, reservation int64) *ocipb.LinuxResources {
		return &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: limit, Swap: swap, Reservation: reservation}}
	}
	cpu := func(c *ocipb.LinuxCPU) *ocipb.LinuxResources { return &ocipb.LinuxResources{CPU: c} }
	io := func(b *ocipb.LinuxBlockIO) *ocipb.LinuxResources { return &ocipb.LinuxResources{BlockIO: b} }
	for _, tt := range []struct {
		name, files string
		steps       []step
	}{
		{"memory, raised, lowered and taken away", "memory.max memory.swap.max memory.low", []step{
			{memory(64<<20, 96<<20, 16<<20), "67108864 33554432 16777216"},
			{memory(128<<20, 256<<20, 0), "134217728 134217728 16777216"},
			{memory(32<<20, 32<<20, 8<<20), "33554432 0 8388608"},
			{memory(48<<20, 0, 0), "50331648 0 8388608"},
			{memory(0, 64<<20, 0), "50331648 16777216 8388608"},
			{memory(0, -1, -1), "50331648 max max"},
			{memory(-1, 0, 0), "max max max"},
		}},
		{"shares", "cpu.weight", []step{
			{cpu(&ocipb.LinuxCPU{Shares: 2}), "1"}, {cpu(&ocipb.LinuxCPU{Shares: 1024}), "39"}, {cpu(&ocipb.LinuxCPU{Shares: 262144}), "10000"},
		}},
		{"quota and period", "cpu.max", []step{
			{cpu(&ocipb.LinuxCPU{Quota: 20000, Period: 50000}), "20000 50000"},
			{cpu(&ocipb.LinuxCPU{Quota: 30000}), "30000 50000"},
			{cpu(&ocipb.LinuxCPU{Period: 200000}), "30000 200000"},
			{cpu(&ocipb.LinuxCPU{Quota: -1}), "max 200000"},
			{cpu(&ocipb.LinuxCPU{Period: 100000}), "max 100000"},
		}},
		{"burst, which never exceeds the quota", "cpu.max cpu.max.burst", []step{
			{cpu(&ocipb.LinuxCPU{Quota: 20000, Burst: u(10000)}), "20000 100000 10000"},
			{cpu(&ocipb.LinuxCPU{Quota: 50000, Burst: u(40000)}), "50000 100000 40000"},
			{cpu(&ocipb.LinuxCPU{Quota: 5000, Burst: u(4000)}), "5000 100000 4000"},
			{cpu(&ocipb.LinuxCPU{Burst: u(0)}), "5000 100000 0"},
		}},
		{"idle", "cpu.idle cpu.weight", []step{
			{cpu(&ocipb.LinuxCPU{Shares: 1024}), "0 39"},
			{cpu(&ocipb.LinuxCPU{Idle: n(1), Shares: 512}), "1 0"},
			{cpu(&ocipb.LinuxCPU{Idle: n(0), Shares: 512}), "0 20"},
		}},
		{"processors and nodes", "cpuset.cpus cpuset.mems cpuset.cpus.effective", []step{
			{cpu(&ocipb.LinuxCPU{Cpus: "0", Mems: "0"}), "0 0 0"}, {cpu(&ocipb.LinuxCPU{Cpus: "0-1"}), "0-1 0 0-1"}, {cpu(&ocipb.LinuxCPU{Cpus: "1"}), "1 0 1"},
		}},
		{"pids", "pids.max", []step{
			{&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 20}}, "20"},
			{&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 500}}, "500"},
			{&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: -1}}, "max"},
		}},
		{"weights of i/o", "io.weight", []step{
			{io(&ocipb.LinuxBlockIO{Weight: 1000}), "default 10000"},
			{io(&ocipb.LinuxBlockIO{Weight: 10}), "default 1"},
			{io(&ocipb.LinuxBlockIO{WeightDevice: []*ocipb.LinuxWeightDevice{{Major: major, Minor: minor, Weight: 500}}}), "default 1 7:0 4950"},
		}},
		{"throttles", "io.max", []step{
			{io(&ocipb.LinuxBlockIO{ThrottleReadBpsDevice: throttle(1 << 20), ThrottleWriteIOPSDevice: throttle(100)}), "7:0 rbps=1048576 wbps=max riops=max wiops=100"},
			{io(&ocipb.LinuxBlockIO{ThrottleWriteBpsDevice: throttle(2 << 20), ThrottleReadIOPSDevice: throttle(50)}), "7:0 rbps=1048576 wbps=2097152 riops=50 wiops=100"},
			{io(&ocipb.LinuxBlockIO{ThrottleReadBpsDevice: throttle(0)}), "7:0 rbps=max wbps=2097152 riops=50 wiops=100"},
		}},
		{"huge pages", "hugetlb.2MB.max hugetlb.2MB.rsvd.max", []step{
			{&ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}, "4194304 4194304"},
			{&ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 2 << 20}}}, "2097152 2097152"},
		}},
		{"unified", "memory.high pids.max memory.oom.group", []step{
			{&ocipb.LinuxResources{Unified: map[string]string{"memory.high": "64M", "pids.max": "9", "memory.oom.group": "1"}}, "67108864 9 1"},
			{&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 5}, Unified: map[string]string{"memory.high": "max", "pids.max": "max"}}, "max max 1"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := sleeper(t, rt, limits(tt.steps[0].r))
			for i, s := range tt.steps {
				if i > 0 {
					if err := c.Update(s.r); err != nil {
						t.Fatalf("update %d: %v", i, err)
					}
				}
				if got := groupFiles(t, c, tt.files); got != s.want {
					t.Errorf("after step %d: %s, want %s", i, got, s.want)
				}
			}
		})
	}
}

// groupFiles returns the words in files of a container's cgroup.
func groupFiles(t *testing.T, c *Container, files string) string {
	t.Helper()
	var path string
	err := c.Cgroup().Use(func(dir int) (err error) {
		path, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for file := range strings.FieldsSeq(files) {
		text, err := os.ReadFile(path + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, strings.Fields(string(text))...)
	}
	return strings.Join(words, " ")
}

func TestRDMAUpdate(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	handles := uint32(3)
	err := c.Update(&ocipb.LinuxResources{Rdma: map[string]*ocipb.LinuxRdma{"mlx5_0": {HcaHandles: &handles}}})
	// The machine has no such device, which only the kernel can know.
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "write mlx5_0 hca_handle=3 hca_object=max to rdma.max") {
		t.Errorf("error %v", err)
	}
}

// Rules of devices are replaced as a whole while the container runs.
func TestDeviceRulesUpdate(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, func(s *ocipb.Spec) {
		s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
	})
	const read = "(exec 3</dev/kmsg) 2>/dev/null && echo yes || echo no"
	deny := &ocipb.LinuxDeviceCgroup{Major: -1, Minor: -1, Access: "rwm"}
	allow := &ocipb.LinuxDeviceCgroup{Allow: true, Type: "c", Major: 1, Minor: 11, Access: "r"}
	for i, tt := range []struct {
		rules []*ocipb.LinuxDeviceCgroup
		want  string
	}{
		{nil, "no\n"},
		{[]*ocipb.LinuxDeviceCgroup{deny, allow}, "yes\n"},
		{[]*ocipb.LinuxDeviceCgroup{allow, deny}, "no\n"},
		{[]*ocipb.LinuxDeviceCgroup{{Allow: true, Major: -1, Minor: -1, Access: "rwm"}}, "yes\n"},
		{[]*ocipb.LinuxDeviceCgroup{deny}, "no\n"},
	} {
		if err := c.Update(&ocipb.LinuxResources{Devices: tt.rules}); err != nil {
			t.Fatal(err)
		}
		if got, err := execIn(t, c, execProcess(read)); err != nil || got.output != tt.want {
			t.Errorf("step %d: %+v, %v; want %q", i, got, err, tt.want)
		}
	}
}

// An update of which one value is refused changes nothing.
func TestRefusedUpdateChangesNothing(t *testing.T) {
	rt := testRuntime(t)
	major, minor := loopDevice(t)
	c := sleeper(t, rt, limits(&ocipb.LinuxResources{
		Memory: &ocipb.LinuxMemory{Limit: 64 << 20, Swap: 96 << 20},
		CPU:    &ocipb.LinuxCPU{Quota: 20000, Shares: 512, Cpus: "0"},
	}))
	const files = "memory.max memory.swap.max memory.high cpu.max cpu.max.burst cpu.weight cpuset.cpus pids.max io.max io.weight"
	before := groupFiles(t, c, files)
	burst := uint64(30000)
	err := c.Update(&ocipb.LinuxResources{
		Memory: &ocipb.LinuxMemory{Limit: 32 << 20, Swap: 32 << 20, Reservation: 1 << 20},
		CPU:    &ocipb.LinuxCPU{Quota: 50000, Burst: &burst, Shares: 2, Cpus: "0-1"},
		Pids:   &ocipb.LinuxPids{Limit: 50},
		BlockIO: &ocipb.LinuxBlockIO{
			Weight: 500, ThrottleReadBpsDevice: []*ocipb.LinuxThrottleDevice{{Major: major, Minor: minor, Rate: 5}},
		},
		Unified: map[string]string{"memory.high": "1G", "pids.max": "nonsense"},
	})
	if err == nil || !strings.Contains(err.Error(), "write nonsense to pids.max") {
		t.Errorf("error %v", err)
	}
	if after := groupFiles(t, c, files); after != before {
		t.Errorf("now %s, before %s", after, before)
	}
	for _, tt := range []struct {
		r    *ocipb.LinuxResources
		want string
	}{
		{&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: -5}}, "resources.memory.limit -5 is negative"},
		{&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 10, Swap: 5}}, "resources.memory.swap 5, which includes memory, is below the memory limit 10"},
		{&ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Quota: -2}}, "resources.cpu.quota -2 is negative"},
		{&ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Cpus: "a"}}, `resources.cpu.cpus "a" is not a list of numbers and ranges`},
		{&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: -2}}, "resources.pids.limit -2 is negative"},
		{&ocipb.LinuxResources{BlockIO: &ocipb.LinuxBlockIO{Weight: 5}}, "resources.blockIO.weight 5 is not between 10 and 1000"},
		{&ocipb.LinuxResources{HugepageLimits: []*ocipb.LinuxHugepageLimit{nil}}, `resources.hugepageLimits[0]: page size "" is not a number of KB, MB or GB`},
		{&ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{Type: "z"}}}, `resources.devices[0]: device rule of unknown type "z"`},
		{&ocipb.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, `resources.unified resource "cgroup.procs" is not a file of a controller`},
	} {
		var refused *fault.Error
		if err := c.Update(tt.r); !errors.As(err, &refused) || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}
