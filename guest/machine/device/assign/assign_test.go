package assign

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/machine/device"
)

// made is an assignment of devices that have been found.
func made(found map[string]found) *assignment {
	return &assignment{set: new(Set), found: found, addresses: map[string]string{}}
}

// with is a container with devices.
func with(devices ...plan.Device) *ocispec.Container {
	return &ocispec.Container{Plan: plan.Plan{Devices: devices}}
}

func node(path string, kind, major, minor uint32) plan.Device {
	return plan.Device{Path: path, Kind: kind, Major: major, Minor: minor}
}

const block, char = unix.S_IFBLK, unix.S_IFCHR

func rule(allow bool, kind string, major, minor int64, access string) *ocipb.LinuxDeviceCgroup {
	return &ocipb.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access}
}

func rules(devices []*ocipb.LinuxDeviceCgroup) (texts []string) {
	for _, r := range devices {
		texts = append(texts, fmt.Sprint(r.Allow, r.Type, " ", r.Major, ":", r.Minor, r.Access))
	}
	slices.Sort(texts)
	return texts
}

func TestNumbersOfTheHostBecomeTheGuests(t *testing.T) {
	spec := with(node("/dev/a", block, 8, 0), node("/dev/b", block, 8, 16), node("/dev/null", char, 8, 0), node("/dev/v", char, 511, 0), node("/dev/bare", block, 7, 7))
	spec.Resources = &ocipb.LinuxResources{
		Devices: []*ocipb.LinuxDeviceCgroup{
			rule(false, "a", -1, -1, "rwm"), rule(true, "b", 8, 0, "r"), rule(true, "b", 8, 16, "rw"),
			rule(true, "c", 8, 0, "m"), rule(true, "b", 8, -1, "m"), rule(true, "c", 511, 0, "rw"),
		},
		BlockIO: &ocipb.LinuxBlockIO{
			WeightDevice:          []*ocipb.LinuxWeightDevice{{Major: 8, Minor: 0, Weight: 5}},
			ThrottleReadBpsDevice: []*ocipb.LinuxThrottleDevice{{Major: 8, Minor: 16, Rate: 6}, {Major: 9, Minor: 9}},
		},
	}
	a := made(map[string]found{
		"/dev/a": {number: number{block, 8, 16}}, "/dev/b": {number: number{block, 254, 0}},
		"/dev/v": {number{char, 240, 1}, "/dev/vfio/12"}, "/dev/bare": {number: number{block, 254, 32}},
		"/dev/none": {}, // of a device without a node
	})
	if err := a.rewrite(spec); err != nil {
		t.Fatal(err)
	}
	want := []plan.Device{node("/dev/a", block, 8, 16), node("/dev/b", block, 254, 0), node("/dev/null", char, 8, 0), node("/dev/vfio/12", char, 240, 1), node("/dev/bare", block, 254, 32)}
	if diff := cmp.Diff(want, spec.Plan.Devices); diff != "" {
		t.Error(diff)
	}
	wantRules := rules([]*ocipb.LinuxDeviceCgroup{
		rule(false, "a", -1, -1, "rwm"), rule(true, "b", 8, 16, "r"), rule(true, "b", 254, 0, "rw"), rule(true, "c", 8, 0, "m"),
		rule(true, "b", 8, -1, "m"), rule(true, "c", 240, 1, "rw"), rule(true, "b", 254, 32, "rwm"),
	})
	if got := rules(spec.Resources.Devices); !slices.Equal(got, wantRules) {
		t.Errorf("rules:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(wantRules, "\n"))
	}
	io := spec.Resources.BlockIO
	if w := io.WeightDevice[0]; w.Major != 8 || w.Minor != 16 {
		t.Errorf("weight of %d:%d", w.Major, w.Minor)
	}
	if l := io.ThrottleReadBpsDevice; l[0].Major != 254 || l[0].Minor != 0 || l[1].Major != 9 {
		t.Errorf("limits: %v", l)
	}
}

// TestCrossedGroups: the group of one device has the path that the host's other one
// had.
func TestCrossedGroups(t *testing.T) {
	for range 20 { // the order of a map
		spec := with(node("/dev/vfio/1", char, 511, 1), node("/dev/vfio/0", char, 511, 0))
		a := made(map[string]found{"/dev/vfio/1": {number{char, 240, 0}, "/dev/vfio/0"}, "/dev/vfio/0": {number{char, 240, 1}, "/dev/vfio/1"}})
		if err := a.rewrite(spec); err != nil {
			t.Fatal(err)
		}
		want := []plan.Device{node("/dev/vfio/0", char, 240, 0), node("/dev/vfio/1", char, 240, 1)}
		if diff := cmp.Diff(want, spec.Plan.Devices); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestOneNumberCannotBecomeTwo(t *testing.T) {
	spec := func() *ocispec.Container { return with(node("/dev/a", block, 8, 0), node("/dev/b", block, 8, 0)) }
	var bad *InvalidError
	a := made(map[string]found{"/dev/a": {number: number{block, 254, 0}}, "/dev/b": {number: number{block, 254, 16}}})
	if err := a.rewrite(spec()); !errors.As(err, &bad) {
		t.Errorf("two devices: %v", err)
	}
	a = made(map[string]found{"/dev/a": {number: number{block, 254, 0}}, "/dev/b": {number: number{block, 254, 0}}})
	if err := a.rewrite(spec()); err != nil {
		t.Errorf("one device with two names: %v", err)
	}
}

func TestVariablesGetTheGuestsAddresses(t *testing.T) {
	a := made(nil)
	a.addresses = map[string]string{"0000:3b:00.0": "0000:01:00.0", "0000:01:00.0": "0000:02:00.0"}
	env := []string{
		"PATH=/bin", "PCIDEVICE_X=0000:3B:00.0,01:00.0", `PCIDEVICE_X_INFO={"0000:3b:00.0":"0000:01:00.0"}`,
		"PCIDEVICE_Y=", "PCIDEVICE_Z=mlx5_0", "PCIDEVICE_W_INFO=0000:3b:00.0", "empty",
	}
	want := []string{
		"PATH=/bin", "PCIDEVICE_X=0000:01:00.0,0000:02:00.0", `PCIDEVICE_X_INFO={"0000:01:00.0":"0000:02:00.0"}`,
		"PCIDEVICE_Y=", "PCIDEVICE_Z=mlx5_0", "PCIDEVICE_W_INFO=0000:3b:00.0", "empty",
	}
	if err := a.translate(env); err != nil || !slices.Equal(env, want) {
		t.Errorf("%q, %v, want %q", env, err, want)
	}
	var bad *InvalidError
	if err := a.translate([]string{"PCIDEVICE_X=0000:99:00.0"}); !errors.As(err, &bad) {
		t.Errorf("an address of no device: %v", err)
	}
	if err := made(nil).translate([]string{"PCIDEVICE_X=0000:99:00.0"}); err != nil {
		t.Errorf("without devices: %v", err)
	}
}

func TestSenselessDevicesAreRefusedBeforeAnyIsAwaited(t *testing.T) {
	spec := with(node("/dev/x", block, 8, 0))
	awaited := &agentpb.Device{Type: "blk", Id: "1f/1f/1f", ContainerPath: "/dev/x"}
	for _, tt := range []struct {
		device *agentpb.Device
		want   string
	}{
		{nil, `devices[1].type ""`},
		{&agentpb.Device{Type: "vfio-ap", ContainerPath: "/dev/x"}, `devices[1].type "vfio-ap" is not one of blk, mmioblk, nvdimm, scsi, vfio-pci, vfio-pci-gk`},
		{&agentpb.Device{Type: "mmioblk", ContainerPath: "/dev/x", VmPath: "/etc/passwd"}, `devices[1].vm_path "/etc/passwd"`},
		{&agentpb.Device{Type: "blk", ContainerPath: "/dev/x", VmPath: "/dev/../etc"}, "devices[1].vm_path"},
		{&agentpb.Device{Type: "blk", ContainerPath: "/dev/other", Id: "01"}, `devices[1].container_path "/dev/other"`},
		{&agentpb.Device{Type: "vfio-pci", ContainerPath: "/dev/x", Options: []string{"3b:00.0=01/00=2"}}, "devices[1].options"},
		{&agentpb.Device{Type: "vfio-pci", ContainerPath: "/dev/x", Options: []string{"3b:00=01/00"}}, "devices[1].options"},
	} {
		set, err := Assign(t.Context(), device.NewFinder(0), []*agentpb.Device{awaited, tt.device}, spec)
		var bad *InvalidError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) || set != nil {
			t.Errorf("%v: %v, want %q in it", tt.device, err, tt.want)
		}
		if err := set.Release(); err != nil {
			t.Error(err)
		}
	}
}

func TestNoDevicesAreNoWork(t *testing.T) {
	set, err := Assign(t.Context(), nil, nil, with())
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Release(); err != nil {
		t.Error(err)
	}
}
