//go:build vm

package hotplug

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
)

// withDevice returns a container with a block device of the host at path, and
// the rule that allows access to it.
func withDevice(script, path, access string, major, minor int64) *ocipb.Spec {
	spec := Spec(script)
	spec.Linux.Devices = []*ocipb.LinuxDevice{{Path: path, Type: "b", Major: major, Minor: minor, FileMode: 0o600}}
	if access != "" {
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
			&ocipb.LinuxDeviceCgroup{Allow: true, Type: "b", Major: major, Minor: minor, Access: access})
	}
	return spec
}

// TestDevicesOfContainers gives disks to containers as devices of each type.
func TestDevicesOfContainers(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	for _, id := range []string{"pci", "scsi", "other"} {
		file := v.Disk(id, 1)
		v.Must(os.WriteFile(file, []byte(strings.Repeat(id+"\n", 2000)), 0o644))
		v.AddDisk(id, file)
	}
	v.PlugDisk("pci", place0)
	v.PlugDisk("other", place1)
	v.Plug("scsi-hd", "disk", "scsi.0", map[string]any{"drive": "scsi", "channel": 0, "scsi-id": 0, "lun": 5})
	const path = "/dev/xvda"
	for _, tt := range []struct {
		name, access, want string
		device             *agentpb.Device
	}{
		{"blk by PCI path", "rwm", "pci", &agentpb.Device{Type: "blk", Id: place0}},
		{"blk without a rule of its own", "", "other", &agentpb.Device{Type: "blk", Id: place1}},
		{"scsi", "rwm", "scsi", &agentpb.Device{Type: "scsi", Id: "0:5"}},
	} {
		tt.device.ContainerPath = path
		// The host's numbers are those of the null device's driver: they must go.
		spec := withDevice("head -n 1 /dev/xvda && dd if=/dev/xvda of=/dev/xvda bs=512 count=1 conv=notrunc 2>/dev/null && stat -c %t:%T /dev/xvda", path, tt.access, 259, 7)
		out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "box", OCI: spec, Devices: []*agentpb.Device{tt.device}})
		if got := strings.Split(out, "\n"); got[0] != tt.want || got[1] == "103:7" {
			t.Errorf("%s: the container printed %q", tt.name, out)
		}
		v.Remove("box")
	}
	node := strings.Fields(v.Shell("ls /sys/bus/pci/devices/0000:00:03.0/*/virtio*/block"))[0]
	for _, kind := range []string{"blk", "mmioblk", "nvdimm"} { // by name, whatever it is
		spec := withDevice("head -n 1 /dev/xvda; ! dd if=/dev/zero of=/dev/xvda bs=512 count=1 2>/dev/null", path, "r", 259, 7)
		out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "box", OCI: spec, Devices: []*agentpb.Device{{Type: kind, VmPath: "/dev/" + node, ContainerPath: path}}})
		if out != "pci\n" {
			t.Errorf("%s by name: the container printed %q", kind, out)
		}
		v.Remove("box")
	}
	for _, id := range []string{"pci", "disk", "other"} {
		v.Unplug(id)
	}
}

// TestNumbersAreExchangedSafely gives two devices to one container whose numbers
// on the host are each other's in the guest.
func TestNumbersAreExchangedSafely(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	for _, id := range []string{"one", "two"} {
		file := v.Disk(id, 1)
		v.Must(os.WriteFile(file, []byte(strings.Repeat(id+"\n", 2000)), 0o644))
		v.AddDisk(id, file)
	}
	v.PlugDisk("one", place0)
	v.PlugDisk("two", place1)
	one := &agentpb.Device{Type: "blk", Id: place0, ContainerPath: "/dev/one"}
	two := &agentpb.Device{Type: "blk", Id: place1, ContainerPath: "/dev/two"}
	// What they are in the guest is what the first container says.
	spec := withDevice("stat -c '%t %T' /dev/one", "/dev/one", "", 1, 1)
	numbers := strings.Fields(v.Run(&agentpb.CreateContainerRequest{ContainerId: "look", OCI: spec, Devices: []*agentpb.Device{one}}))
	if len(numbers) != 2 || numbers[0] != "fe" {
		t.Fatalf("the guest's numbers: %q", numbers)
	}
	// 254:0 and 254:16 are the first two virtio disks.
	spec = withDevice("head -n 1 /dev/one; head -n 1 /dev/two", "/dev/one", "r", 254, 16)
	second := withDevice("", "/dev/two", "r", 254, 0)
	spec.Linux.Devices = append(spec.Linux.Devices, second.Linux.Devices...)
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, second.Linux.Resources.Devices[1:]...)
	out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "both", OCI: spec, Devices: []*agentpb.Device{two, one}})
	if out != "one\ntwo\n" {
		t.Errorf("the container printed %q", out)
	}
}

// TestSenselessDevicesAreNamed also shows that nothing is left of the container.
func TestSenselessDevicesAreNamed(t *testing.T) {
	v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=0"}}).Sandbox()
	for _, tt := range []struct {
		device *agentpb.Device
		code   ttrpc.Code
		want   string
	}{
		{&agentpb.Device{}, ttrpc.InvalidArgument, `devices[0].type ""`},
		{&agentpb.Device{Type: "floppy", Id: "1", ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, `devices[0].type "floppy"`},
		{&agentpb.Device{Type: "blk", Id: place0}, ttrpc.InvalidArgument, "devices[0].container_path"},
		{&agentpb.Device{Type: "blk", ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, "devices[0].vm_path"},
		{&agentpb.Device{Type: "blk", Id: "04/99", ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, `devices[0].id "04/99"`},
		{&agentpb.Device{Type: "blk", Id: place0, ContainerPath: "/dev/y"}, ttrpc.InvalidArgument, `devices[0].container_path "/dev/y"`},
		{&agentpb.Device{Type: "blk", Id: place0, ContainerPath: "/dev/x", Options: []string{"a=b"}}, ttrpc.InvalidArgument, `devices[0].options "a=b"`},
		{&agentpb.Device{Type: "blk", Id: place0, ContainerPath: "/dev/x"}, ttrpc.DeadlineExceeded, place0},
		{&agentpb.Device{Type: "scsi", Id: place0, ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, `devices[0].id "` + place0 + `"`},
		{&agentpb.Device{Type: "scsi", Id: "6:0", ContainerPath: "/dev/x"}, ttrpc.DeadlineExceeded, "SCSI disk 6:0"},
		{&agentpb.Device{Type: "nvdimm", VmPath: "pmem0", ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, `devices[0].vm_path "pmem0"`},
		{&agentpb.Device{Type: "nvdimm", VmPath: "/dev/pmem0", ContainerPath: "/dev/x"}, ttrpc.DeadlineExceeded, "/dev/pmem0"},
		{&agentpb.Device{Type: "vfio-pci", Id: "a", ContainerPath: "/dev/x"}, ttrpc.InvalidArgument, "devices[0].options"},
		{&agentpb.Device{Type: "vfio-pci", Id: "a", ContainerPath: "/dev/x", Options: []string{place0}}, ttrpc.InvalidArgument, `devices[0].options "` + place0 + `"`},
		{&agentpb.Device{Type: "vfio-pci-gk", Id: "a", ContainerPath: "/dev/x", Options: []string{"0000:3b:00.0=" + place0}}, ttrpc.DeadlineExceeded, place0},
	} {
		_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{
			ContainerId: "box", OCI: withDevice("true", "/dev/x", "rwm", 8, 0), Devices: []*agentpb.Device{tt.device},
		})
		if ttrpc.CodeOf(err) != tt.code || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v (%v), want %v with %q", tt.device, err, ttrpc.CodeOf(err), tt.code, tt.want)
		}
	}
}

// TestADeviceThatComesLateOrNever waits in two calls at once; the one that is
// given up by its client does not go on.
func TestADeviceThatComesLateOrNever(t *testing.T) {
	v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=3600"}}).Sandbox()
	create := func(ctx context.Context, id, path string) <-chan error {
		created := make(chan error, 1)
		go func() {
			_, err := v.Agent.CreateContainer(ctx, &agentpb.CreateContainerRequest{
				ContainerId: id, OCI: withDevice("true", "/dev/x", "rwm", 8, 0),
				Devices: []*agentpb.Device{{Type: "blk", Id: path, ContainerPath: "/dev/x"}},
			})
			created <- err
		}()
		return created
	}
	ctx, giveUp := context.WithCancel(v.Call())
	never, late := create(ctx, "never", place1), create(v.Call(), "late", place0)
	v.Shell("true") // by then both are on their way
	giveUp()
	if err := <-never; !errors.Is(err, context.Canceled) {
		t.Errorf("the call that was given up: %v", err)
	}
	v.AddDisk("late", v.Disk("late", 1))
	v.PlugDisk("late", place0)
	v.Must(<-late)
}

// TestADiskPulledOutInUse unplugs a disk that a container has mounted.
func TestADiskPulledOutInUse(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	v.AddDisk("disk", v.Disk("disk", 16, Ext4()...))
	v.PlugDisk("disk", place0)
	spec := Spec("sleep 1000")
	s := &agentpb.Storage{Driver: "blk", Source: place0, Fstype: "ext4", MountPoint: "/run/kata-containers/box/data"}
	spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/data", Type: "bind", Source: s.MountPoint, Options: []string{"bind"}})
	_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "box", OCI: spec, Storages: []*agentpb.Storage{s}})
	v.Must(err)
	_, err = v.Agent.StartContainer(v.Call(), &agentpb.StartContainerRequest{ContainerId: "box"})
	v.Must(err)
	v.Unplug("disk")
	v.Remove("box")
	if out := v.Shell("cat /proc/1/mountinfo"); strings.Contains(out, "/data") {
		t.Errorf("left: %s", out)
	}
}

// TestGuestDetails compares what the agent says it has with what it takes.
func TestGuestDetails(t *testing.T) {
	v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=0"}}).Sandbox()
	resp, err := v.Agent.GetGuestDetails(v.Call(), &agentpb.GuestDetailsRequest{})
	v.Must(err)
	storages := []string{"9p", "bind", "blk", "ephemeral", "erofs.multi-layer", "local", "mmioblk", "nvdimm", "overlayfs", "scsi", "virtio-fs"}
	devices := []string{"blk", "mmioblk", "nvdimm", "scsi", "vfio-pci", "vfio-pci-gk"}
	if got := resp.AgentDetails.StorageHandlers; !slices.Equal(got, storages) {
		t.Errorf("storage handlers %q, want %q", got, storages)
	}
	if got := resp.AgentDetails.DeviceHandlers; !slices.Equal(got, devices) {
		t.Errorf("device handlers %q, want %q", got, devices)
	}
}

// layers makes disks with a file system of a type from directories of one file
// each, called by its name, and plugs them in.
func (v *VM) layers(kind string, names ...string) (paths []string) {
	v.Helper()
	for i, name := range names {
		dir := filepath.Join(v.Dir, name+".d")
		v.Must(os.MkdirAll(filepath.Join(dir, "dir"), 0o755))
		v.Must(os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o644))
		v.Must(os.WriteFile(filepath.Join(dir, "top"), []byte(name+"\n"), 0o644))
		file := filepath.Join(v.Dir, name)
		if kind == "erofs" {
			v.Command("mkfs.erofs", file, dir)
		} else {
			v.Disk(name, 16, Ext4()...)
		}
		v.AddDisk(name, file)
		slot := string(rune('1' + i))
		v.Plug("virtio-blk-pci", name, "legacy", map[string]any{"drive": name, "addr": slot})
		paths = append(paths, "07/0"+slot)
	}
	return paths
}

// TestLayersOfErofs makes a root file system of several disks, as upstream's
// erofs.multi-layer has it, and in steps.
func TestLayersOfErofs(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	paths := v.layers("erofs", "a", "b", "c")
	v.AddDisk("upper", v.Disk("upper", 16, Ext4()...))
	v.PlugDisk("upper", place0)
	const point = "/run/kata-containers/box/merged"
	layer := func(path string, options ...string) *agentpb.Storage {
		return &agentpb.Storage{Driver: "erofs.multi-layer", Source: path, Fstype: "erofs", MountPoint: point, Options: options}
	}
	merged := func(what, script, want string, storages ...*agentpb.Storage) {
		t.Helper()
		spec := Spec("cd /tmp/m && " + script)
		spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/m", Type: "bind", Source: point, Options: []string{"rbind"}})
		out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "box", OCI: spec, Storages: storages})
		if out != want {
			t.Errorf("%s: the container printed %q, want %q", what, out, want)
		}
		v.Remove("box")
		if out := v.Shell("grep -e erofs -e overlay -e ext4 /proc/1/mountinfo; ls -A /proc/1/root/run/kata-containers"); out != "" {
			t.Errorf("%s has left %q", what, out)
		}
	}
	upper := &agentpb.Storage{
		Driver: "erofs.multi-layer", Source: place0, Fstype: "ext4", MountPoint: point,
		Options: []string{"X-kata.overlay-upper", "X-kata.multi-layer=true", "X-kata.mkdir.path={{ mount 0 }}/upper/made:0700", "rw"},
	}
	lower := []*agentpb.Storage{
		layer(paths[0], "X-kata.overlay-lower", "X-kata.multi-layer=true", "ro"), layer(paths[1], "X-kata.overlay-lower"),
		{Driver: "blk", Source: paths[2], Fstype: "erofs", Options: []string{"X-kata.multi-layer=true"}},
	}
	all := append([]*agentpb.Storage{upper}, lower...)
	merged("with an upper layer", "cat a b c top && stat -c %a made && echo new > top && rm b && ls", "a\nb\nc\na\n700\na\nc\ndir\nmade\ntop\n", all...)
	merged("the upper layer again", "cat top; ls", "new\na\nc\ndir\nmade\ntop\n", all...)
	merged("lower layers alone", "cat a b c top; ! touch x 2>/dev/null", "a\nb\nc\nb\n", layer(paths[1]), layer(paths[0]), layer(paths[2]))
	merged("one layer", "cat a top; ! touch x 2>/dev/null", "a\na\n", layer(paths[0]))
	merged("in steps", "cat a b top; ! touch x 2>/dev/null", "a\nb\nb\n",
		&agentpb.Storage{Driver: "blk", Source: paths[0], Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata-containers/box/0"},
		&agentpb.Storage{Driver: "blk", Source: paths[1], Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata-containers/box/1"},
		&agentpb.Storage{Driver: "overlayfs", Fstype: "overlay", MountPoint: point, Options: []string{"lowerdir=/run/kata-containers/box/1:/run/kata-containers/box/0"}})
	for _, tt := range []struct {
		want     string
		storages []*agentpb.Storage
	}{
		{"without lower ones", all[:1]},
		{"second upper layer", append(slices.Clone(all), upper)},
		{"is neither a path below /dev nor a PCI path", []*agentpb.Storage{layer("99/99")}},
		{"X-kata.mkdir.path=x:9", []*agentpb.Storage{lower[0], {Driver: "erofs.multi-layer", Source: place0, Fstype: "ext4", MountPoint: point, Options: []string{"X-kata.mkdir.path=x:9"}}}},
	} {
		_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "box", OCI: Spec("true"), Storages: tt.storages})
		if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q in it", err, tt.want)
		}
	}
	// A layer that is no file system of its kind: the others are let go.
	bad := layer(place0)
	if _, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "box", OCI: Spec("true"), Storages: append(slices.Clone(lower), bad)}); err == nil {
		t.Error("an ext4 disk was taken for erofs")
	}
	if out := v.Shell("grep -e erofs -e overlay -e ext4 /proc/1/mountinfo; ls -A /proc/1/root/run/kata-containers"); out != "" {
		t.Errorf("a failure has left %q", out)
	}
	for _, id := range []string{"a", "b", "c", "upper"} {
		v.Unplug(id)
	}
}
