//go:build vm

package hotplug

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
)

// usesStorage runs a container that writes to a storage of a disk and reads it
// back.
func usesStorage(v *VM, id string, s *agentpb.Storage) {
	v.Helper()
	spec := Spec("echo hello > /tmp/data/file && cat /tmp/data/file && grep ' /tmp/data ' /proc/mounts")
	spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/data", Type: "bind", Source: s.MountPoint, Options: []string{"rbind"}})
	out := v.Run(&agentpb.CreateContainerRequest{ContainerId: id, OCI: spec, Storages: []*agentpb.Storage{s}})
	if !strings.HasPrefix(out, "hello\n") {
		v.Errorf("container %s printed %q", id, out)
	}
}

// TestDisksOnEveryBus uses a disk on the root bus, and plugs disks in behind one
// to three bridges, uses them and unplugs them.
func TestDisksOnEveryBus(t *testing.T) {
	cold := filepath.Join(t.TempDir(), "cold")
	if err := os.WriteFile(cold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(cold, 16<<20); err != nil {
		t.Fatal(err)
	}
	(&VM{TB: t}).Command(append(Ext4(), cold)...)
	v := Boot(t, Options{Args: []string{
		"-blockdev", "driver=raw,node-name=cold,file.driver=file,file.filename=" + cold, "-device", "virtio-blk-pci,drive=cold,addr=0d",
	}}).Sandbox()
	usesStorage(v, "cold", &agentpb.Storage{Driver: "blk", Source: "0d", Fstype: "ext4", MountPoint: "/run/kata-containers/cold/data"})
	for _, tt := range []struct{ bus, addr, path string }{
		{"", "", place0},
		{"legacy", "2", "07/02"},
		{"switch", "0", "08/00/00/00"},
		{"deep", "3", "09/00/01/03"},
	} {
		id := "disk-" + tt.bus
		v.AddDisk(id, v.Disk(id, 16, Ext4()...))
		s := &agentpb.Storage{Driver: "blk", Source: tt.path, Fstype: "ext4", MountPoint: "/run/kata-containers/" + id + "/data"}
		dev := "dev-" + tt.bus
		if tt.bus == "" {
			v.PlugDisk(id, tt.path)
			dev = id
		} else {
			v.Plug("virtio-blk-pci", dev, tt.bus, map[string]any{"drive": id, "addr": tt.addr})
		}
		usesStorage(v, id, s)
		v.Remove(id)
		if out := v.Shell("grep " + id + " /proc/1/mountinfo; ls /proc/1/root/run/kata-containers"); strings.Contains(out, id) {
			t.Errorf("%s: after the container is removed the guest has %q", tt.bus, out)
		}
		v.Unplug(dev)
	}
}

// TestADiskThatComesAfterTheCall asks for a container first.
func TestADiskThatComesAfterTheCall(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	disk := v.Disk("late", 16, Ext4()...)
	v.AddDisk("late", disk)
	spec := Spec("echo late > /tmp/data/file && cat /tmp/data/file")
	s := &agentpb.Storage{Driver: "blk", Source: place0, Fstype: "ext4", MountPoint: "/run/kata-containers/late/data"}
	spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/data", Type: "bind", Source: s.MountPoint, Options: []string{"bind"}})
	created := make(chan error, 1)
	go func() {
		_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "late", OCI: spec, Storages: []*agentpb.Storage{s}})
		created <- err
	}()
	// Another call is answered while that one waits.
	if out := v.Shell("echo ready"); out != "ready\n" {
		t.Errorf("%q", out)
	}
	select {
	case err := <-created:
		t.Fatalf("the container did not wait for its disk: %v", err)
	default:
	}
	v.PlugDisk("late", place0)
	v.Must(<-created)
	if out := v.Start("late"); out != "late\n" {
		t.Errorf("the container printed %q", out)
	}
}

// TestTheTimeoutNamesWhatWasAwaited also shows that agent.hotplug_timeout takes
// effect, 0 included.
func TestTheTimeoutNamesWhatWasAwaited(t *testing.T) {
	for timeout, want := range map[string]string{"0": "forbids to wait", "1": "within 1s"} {
		v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=" + timeout}}).Sandbox()
		for _, s := range []*agentpb.Storage{
			{Driver: "blk", Source: place0, Fstype: "ext4"},
			{Driver: "blk", Source: "/dev/vdx", Fstype: "ext4"},
			{Driver: "scsi", Source: "3:4", Fstype: "ext4"},
			{Driver: "nvdimm", Source: "/dev/pmem7", Fstype: "ext4"},
		} {
			s.MountPoint = "/run/kata-containers/timeout/data"
			_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "timeout", OCI: Spec("true"), Storages: []*agentpb.Storage{s}})
			for _, part := range []string{s.Source, want, "agent.hotplug_timeout", "storages[0]"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("timeout %s, driver %s: %v, want %q in it", timeout, s.Driver, err, part)
				}
			}
		}
		if out := v.Shell("ls /proc/1/root/run/kata-containers"); strings.Contains(out, "timeout") {
			t.Errorf("a failed container has left %q", out)
		}
	}
}

// TestSCSIDisks plugs disks into the SCSI host.
func TestSCSIDisks(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	for lun := range 3 {
		id := fmt.Sprintf("scsi%d", lun)
		v.AddDisk(id, v.Disk(id, 16, Ext4()...))
		v.Plug("scsi-hd", id, "scsi.0", map[string]any{"drive": id, "channel": 0, "scsi-id": 1, "lun": lun})
		usesStorage(v, id, &agentpb.Storage{
			Driver: "scsi", Source: fmt.Sprintf("1:%d", lun), Fstype: "ext4", MountPoint: "/run/kata-containers/" + id + "/data",
		})
	}
	for lun := range 3 {
		id := fmt.Sprintf("scsi%d", lun)
		v.Remove(id)
		v.Unplug(id)
	}
}
