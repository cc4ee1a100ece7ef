//go:build vm

package hotplug

import (
	"slices"
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
)

// TestDevicesForVFIO gives PCI devices to containers: to their own drivers by an
// IOMMU group, and to the guest's.
func TestDevicesForVFIO(t *testing.T) {
	v := Boot(t, Options{Params: []string{"intel_iommu=on"}, Args: []string{
		"-device", "intel-iommu,intremap=off",
		"-device", "pcie-root-port,id=raw0,chassis=91,addr=04", "-device", "pcie-root-port,id=raw1,chassis=92,addr=05",
	}}).Sandbox()
	for _, id := range []string{"one", "two"} {
		v.AddDisk(id, v.Disk(id, 1))
	}
	v.Plug("virtio-blk-pci", "one", "raw0", map[string]any{"drive": "one", "iommu_platform": true, "disable-legacy": "on"})
	v.Plug("virtio-blk-pci", "two", "raw1", map[string]any{"drive": "two", "iommu_platform": true, "disable-legacy": "on"})
	spec := func(script string) *ocipb.Spec {
		s := Spec(script)
		s.Process.Env = append(s.Process.Env, "PCIDEVICE_MAKER_NIC=0000:3b:00.0,0000:3b:00.1", `PCIDEVICE_MAKER_NIC_INFO={"0000:3b:00.0":{},"0000:3B:00.1":{}}`, "PCIDEVICE_OTHER=none")
		s.Linux.Devices = []*ocipb.LinuxDevice{
			{Path: "/dev/vfio/33", Type: "c", Major: 511, Minor: 0}, {Path: "/dev/vfio/34", Type: "c", Major: 511, Minor: 1},
		}
		return s
	}
	drivers := func() string {
		return v.Shell("for i in 04 05; do basename $(readlink /sys/bus/pci/devices/0000:00:$i.0/*/driver | grep -v pcieport); done")
	}
	if got := drivers(); got != "virtio-pci\nvirtio-pci\n" {
		t.Fatalf("the drivers before: %q", got)
	}
	groups := strings.Fields(v.Shell("for i in 04 05; do basename $(readlink -f /sys/bus/pci/devices/0000:00:$i.0/*/iommu_group); done"))
	if len(groups) < 2 {
		t.Fatalf("IOMMU groups: %q", groups)
	}
	out := v.Run(&agentpb.CreateContainerRequest{
		ContainerId: "box", OCI: spec("ls /dev/vfio; exec 3<>/dev/vfio/" + groups[0] + " && echo opened; env | grep ^PCI | sort"),
		Devices: []*agentpb.Device{
			{Type: "vfio-pci", Id: "1", ContainerPath: "/dev/vfio/33", Options: []string{"0000:3b:00.0=04/00"}},
			{Type: "vfio-pci", Id: "2", ContainerPath: "/dev/vfio/34", Options: []string{"0000:3B:00.1=05/00"}},
		},
	})
	addresses := strings.Fields(v.Shell("for i in 04 05; do cd /sys/bus/pci/devices/0000:00:$i.0; ls -d 0000:*:00.0; done"))
	want := strings.Join(slices.Sorted(slices.Values(groups[:2])), "\n") + "\nopened\n" + // as ls does
		"PCIDEVICE_MAKER_NIC=" + addresses[0] + "," + addresses[1] + "\n" +
		`PCIDEVICE_MAKER_NIC_INFO={"` + addresses[0] + `":{},"` + addresses[1] + `":{}}` + "\nPCIDEVICE_OTHER=none\n"
	if out != want {
		t.Errorf("the container printed %q, want %q", out, want)
	}
	if got := drivers(); got != "vfio-pci\nvfio-pci\n" {
		t.Errorf("the drivers while it is there: %q", got)
	}
	v.Remove("box")
	if got := drivers(); got != "virtio-pci\nvirtio-pci\n" {
		t.Errorf("the drivers afterwards: %q", got)
	}
	// The second device fails: the first goes back to its driver.
	_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{
		ContainerId: "box", OCI: spec("true"), Devices: []*agentpb.Device{
			{Type: "vfio-pci", Id: "1", ContainerPath: "/dev/vfio/33", Options: []string{"0000:3b:00.0=04/00", "0000:3b:00.1=05/00"}},
		},
	})
	if err == nil || !strings.Contains(err.Error(), "IOMMU group") {
		t.Errorf("devices of two groups as one: %v", err)
	}
	if got := drivers(); got != "virtio-pci\nvirtio-pci\n" {
		t.Errorf("the drivers after a failure: %q", got)
	}
	out = v.Run(&agentpb.CreateContainerRequest{
		ContainerId: "box", OCI: spec("env | grep ^PCIDEVICE_MAKER_NIC="),
		Devices: []*agentpb.Device{{Type: "vfio-pci-gk", Id: "1", ContainerPath: "/dev/vfio/33", Options: []string{"0000:3b:00.0=04/00", "0000:3b:00.1=05/00"}}},
	})
	if want := "PCIDEVICE_MAKER_NIC=" + addresses[0] + "," + addresses[1] + "\n"; out != want {
		t.Errorf("the container printed %q, want %q", out, want)
	}
	if got := drivers(); got != "virtio-pci\nvirtio-pci\n" {
		t.Errorf("the drivers of devices that stay with the guest: %q", got)
	}
	v.Remove("box")
	v.Unplug("one")
	v.Unplug("two")
}
