//go:build vm

package hotplug

import (
	"fmt"
	"os"
	"testing"

	"kata/api/agentpb"
	"kata/api/csipb"
	"kata/api/ttrpc"
)

// TestVolumesGrowWithTheirDisk resizes volumes in use.
func TestVolumesGrowWithTheirDisk(t *testing.T) {
	t.Run("ext4", func(t *testing.T) { growsWithItsDisk(t, "ext4", 32, 32, Ext4()) })
	t.Run("xfs", func(t *testing.T) { growsWithItsDisk(t, "xfs", 320, 128, []string{"mkfs.xfs", "-q"}) })
}

// growsWithItsDisk begins with size MiB and goes on in steps.
func growsWithItsDisk(t *testing.T, fstype string, size, step uint64, mkfs []string) {
	v := Boot(t, Options{}).Sandbox()
	const mib, path = 1 << 20, "/run/kata-containers/volume"
	v.AddDisk("volume", v.Disk("volume", int64(size), mkfs...))
	v.PlugDisk("volume", place0)
	_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{
		ContainerId: "user", OCI: Spec("true"),
		Storages: []*agentpb.Storage{{Driver: "blk", Source: place0, Fstype: fstype, MountPoint: path}},
	})
	v.Must(err)
	total := func() uint64 {
		t.Helper()
		stats, err := v.Agent.GetVolumeStats(v.Call(), &agentpb.VolumeStatsRequest{VolumeGuestPath: path})
		v.Must(err)
		if len(stats.Usage) != 2 || stats.Usage[0].Unit != csipb.VolumeUsage_BYTES || stats.Usage[1].Unit != csipb.VolumeUsage_INODES || stats.VolumeCondition.GetAbnormal() {
			t.Fatalf("the volume's use is %v", stats)
		}
		for _, u := range stats.Usage {
			if u.Total == 0 || u.Available == 0 || u.Available > u.Total-u.Used {
				t.Errorf("the volume's use is %v", stats)
			}
		}
		return stats.Usage[0].Total
	}
	resize := func(size uint64) error {
		_, err := v.Agent.ResizeVolume(v.Call(), &agentpb.ResizeVolumeRequest{VolumeGuestPath: path, Size: size})
		return err
	}
	grow := func(size uint64) {
		t.Helper()
		v.growDisk("volume", int64(size))
	}
	small := total()
	v.Must(resize(size * mib)) // as it is
	v.wantCode(resize((size-1)*mib), ttrpc.InvalidArgument, path, "cannot shrink")

	// The call may come before the disk has grown.
	done := make(chan error, 1)
	go func() { done <- resize((size + step) * mib) }()
	if now := total(); now != small {
		t.Errorf("the volume has %d bytes, had %d", now, small)
	}
	grow((size + step) * mib)
	v.Must(<-done)
	large := total()
	if large < small+step*7/8*mib {
		t.Errorf("the volume has %d bytes, had %d", large, small)
	}
	grow((size + 3*step) * mib)
	v.Must(resize((size+2*step)*mib + 17)) // less than the disk has, and not in whole blocks
	if now := total(); now < large+step*7/8*mib || now > (size+2*step)*mib {
		t.Errorf("the volume has %d bytes, had %d", now, large)
	}
	v.wantCode(resize((size+step)*mib), ttrpc.InvalidArgument, "cannot shrink")
	// A file that is larger than the volume was shows that it is sound.
	script := fmt.Sprintf("cd /proc/1/root%s && dd if=/dev/zero of=x bs=1M count=%d 2>/dev/null && stat -c %%s x", path, size+16)
	if out := v.Shell(script); out != fmt.Sprintln((size+16)*mib) {
		t.Errorf("a file of %d MiB has %q bytes", size+16, out)
	}
}

// growDisk makes a disk's file longer and tells the guest.
func (v *VM) growDisk(id string, size int64) {
	v.Helper()
	v.Must(os.Truncate(v.disks[id], size))
	v.Must(v.Machine.ResizeBlock(v.Call(), id, size))
}

func TestVolumesThatDoNotGrow(t *testing.T) {
	v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=1"}}).Sandbox()
	const path = "/run/kata-containers/volume"
	v.AddDisk("volume", v.Disk("volume", 32, Ext4()...))
	v.PlugDisk("volume", place0)
	_, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{
		ContainerId: "user", OCI: Spec("true"),
		Storages: []*agentpb.Storage{
			{Driver: "blk", Source: place0, Fstype: "ext4", MountPoint: path, Options: []string{"ro"}},
			{Driver: "ephemeral", Fstype: "tmpfs", MountPoint: "/run/kata-containers/memory"},
		},
	})
	v.Must(err)
	for _, tt := range []struct {
		path string
		size uint64
		code ttrpc.Code
		text string
	}{
		{path, 64 << 20, ttrpc.FailedPrecondition, "33554432 bytes"},
		{path, 0, ttrpc.InvalidArgument, "size 0"},
		{path, 1 << 63, ttrpc.InvalidArgument, "size 9223372036854775808"},
		{"", 1 << 20, ttrpc.InvalidArgument, "volume_guest_path"},
		{"volume", 1 << 20, ttrpc.InvalidArgument, "volume_guest_path"},
		{path + "/lost+found", 64 << 20, ttrpc.NotFound, "nothing is mounted"},
		{"/run/kata-containers/nothing", 64 << 20, ttrpc.NotFound, ""},
		{"/run/kata-containers/memory", 64 << 20, ttrpc.FailedPrecondition, "no block device"},
		{"/proc", 64 << 20, ttrpc.FailedPrecondition, "no block device"},
	} {
		_, err := v.Agent.ResizeVolume(v.Call(), &agentpb.ResizeVolumeRequest{VolumeGuestPath: tt.path, Size: tt.size})
		v.wantCode(err, tt.code, tt.text)
	}
	v.growDisk("volume", 64<<20)
	_, err = v.Agent.ResizeVolume(v.Call(), &agentpb.ResizeVolumeRequest{VolumeGuestPath: path, Size: 64 << 20})
	v.wantCode(err, ttrpc.FailedPrecondition, "read-only")
}
