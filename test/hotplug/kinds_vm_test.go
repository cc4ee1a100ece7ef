//go:build vm

package hotplug

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
)

// nvdimm makes a file for an NVDIMM with an ext4 file system that can be mapped:
// before it is the superblock of libnvdimm that says where the data begins
// (struct nd_pfn_sb of drivers/nvdimm/pfn.h).
func nvdimm(t *testing.T, v *VM, file string) {
	t.Helper()
	const size, offset = 128 << 20, 2 << 20
	le := binary.LittleEndian
	sb := make([]byte, 4096)
	copy(sb, "NVDIMM_PFN_INFO\x00")
	sb[16] = 1                                // uuid
	le.PutUint16(sb[52:], 1)                  // version 1.4
	le.PutUint16(sb[54:], 4)                  //
	le.PutUint64(sb[56:], offset)             // data
	le.PutUint64(sb[64:], (size-offset)/4096) // pages
	le.PutUint32(sb[72:], 1)                  // mode: page structures in memory
	le.PutUint32(sb[84:], 2<<20)              // alignment
	le.PutUint32(sb[88:], 4096)               // size of a page
	le.PutUint16(sb[92:], 64)                 // size of a page structure
	var low, high uint64                      // Fletcher's checksum
	for i := 0; i < len(sb); i += 4 {
		low += uint64(le.Uint32(sb[i:]))
		low &= 1<<32 - 1
		high += low
	}
	le.PutUint64(sb[len(sb)-8:], high<<32|low)
	v.Must(os.Truncate(file, size))
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	v.Must(err)
	defer f.Close()
	_, err = f.WriteAt(sb, 4096)
	v.Must(err)
	v.Command(append(Ext4(), "-b", "4096", "-E", fmt.Sprintf("offset=%d", offset), file, "30000")...)
}

// TestPersistentMemory mounts NVDIMMs, one of them plugged in, with DAX.
func TestPersistentMemory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"cold", "hot"} {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		nvdimm(t, &VM{TB: t}, filepath.Join(dir, name))
	}
	v := Boot(t, Options{
		Machine: "nvdimm=on",
		Args: []string{
			"-m", "512M,slots=4,maxmem=2G",
			"-object", "memory-backend-file,id=cold,size=128M,share=on,mem-path=" + filepath.Join(dir, "cold"),
			"-device", "nvdimm,id=nvcold,memdev=cold",
		},
	}).Sandbox()
	for _, tt := range []struct{ name, node string }{{"cold", "/dev/pmem0"}, {"hot", "/dev/pmem1"}} {
		if tt.name == "hot" {
			v.Do("object-add", map[string]any{"qom-type": "memory-backend-file", "id": "hot", "size": 128 << 20, "share": true, "mem-path": filepath.Join(dir, "hot")})
			v.Do("device_add", map[string]any{"driver": "nvdimm", "id": "nvhot", "memdev": "hot"})
		}
		usesStorage(v, tt.name, &agentpb.Storage{
			Driver: "nvdimm", Source: tt.node, Fstype: "ext4", Options: []string{"dax"}, MountPoint: "/run/kata-containers/" + tt.name + "/data",
		})
		if out := v.Shell("grep '/" + tt.name + "/data ' /proc/1/mountinfo"); !strings.Contains(out, "dax") {
			t.Errorf("%s: mounted as %q", tt.node, out)
		}
		v.Remove(tt.name)
	}
	spec := withDevice("dd if=/dev/xvda bs=1k count=2 2>/dev/null | wc -c", "/dev/xvda", "r", 259, 3)
	if out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "box", OCI: spec, Devices: []*agentpb.Device{{Type: "nvdimm", VmPath: "/dev/pmem1", ContainerPath: "/dev/xvda"}}}); out != "2048\n" {
		t.Errorf("the container printed %q", out)
	}
}

// Test9P mounts a folder of the host's by 9P.
func Test9P(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("shared\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	v := Boot(t, Options{Args: []string{
		"-fsdev", "local,id=nine,security_model=none,path=" + dir, "-device", "virtio-9p-pci,fsdev=nine,mount_tag=ninetag,addr=0c",
	}}).Sandbox()
	const point = "/run/kata-containers/nine"
	for _, options := range [][]string{{"trans=virtio", "version=9p2000.L", "cache=mmap", "nodev", "msize=8192"}, nil} {
		spec := Spec("cat /tmp/nine/file")
		spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/nine", Type: "bind", Source: point, Options: []string{"bind"}})
		out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "nine", OCI: spec, Storages: []*agentpb.Storage{
			{Driver: "9p", Source: "ninetag", Fstype: "9p", MountPoint: point, Options: options},
		}})
		if out != "shared\n" {
			t.Errorf("options %v: the container printed %q", options, out)
		}
		v.Remove("nine")
	}
}

// TestMemoryIsCountedByItsUsers has an ephemeral storage of three containers: it
// goes with the last, or stays for the pod if it is marked as shared.
func TestMemoryIsCountedByItsUsers(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	const point = "/run/kata-containers/sandbox/ephemeral/cache"
	run := func(id, script string, shared bool) string {
		spec := Spec(script)
		spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/cache", Type: "bind", Source: point, Options: []string{"bind"}})
		return v.Run(&agentpb.CreateContainerRequest{ContainerId: id, OCI: spec, Storages: []*agentpb.Storage{
			{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", Options: []string{"size=1M", "fsgid=77"}, MountPoint: point, Shared: shared},
		}})
	}
	mounts := func() int { return strings.Count(v.Shell("cat /proc/1/mountinfo"), " "+point+" ") }
	if out := run("one", "echo first > /tmp/cache/file; stat -c %g:%a /tmp/cache; df -k /tmp/cache | tail -n 1 | awk '{print $2}'", false); out != "77:3777\n1024\n" {
		t.Errorf("the first container printed %q", out)
	}
	for _, id := range []string{"two", "three"} {
		if out := run(id, "cat /tmp/cache/file", false); out != "first\n" {
			t.Errorf("container %s printed %q", id, out)
		}
	}
	for i, id := range []string{"one", "three", "two"} {
		if got := mounts(); got != 1 {
			t.Errorf("%d mounts after %d containers were removed", got, i)
		}
		v.Remove(id)
	}
	if got := mounts(); got != 0 {
		t.Errorf("%d mounts are left", got)
	}
	run("one", "echo kept > /tmp/cache/file", true)
	v.Remove("one")
	if out := run("two", "cat /tmp/cache/file", true); out != "kept\n" {
		t.Errorf("the container after the one that was removed printed %q", out)
	}
	v.Remove("two")
}

// TestLocalDirectories also shows that contents outlive the container.
func TestLocalDirectories(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	const point = "/run/kata-containers/sandbox/local/dir"
	run := func(id, script string) string {
		spec := Spec(script)
		spec.Mounts = append(spec.Mounts, &ocipb.Mount{Destination: "/tmp/dir", Type: "bind", Source: point, Options: []string{"bind"}})
		out := v.Run(&agentpb.CreateContainerRequest{ContainerId: id, OCI: spec, Storages: []*agentpb.Storage{
			{Driver: "local", MountPoint: point, Options: []string{"mode=0750", "fsgid=88"}},
		}})
		v.Remove(id)
		return out
	}
	if out := run("one", "stat -c %g:%a /tmp/dir; echo kept > /tmp/dir/file"); out != "88:2750\n" {
		t.Errorf("the first container printed %q", out)
	}
	if out := run("two", "cat /tmp/dir/file; rm /tmp/dir/file"); out != "kept\n" {
		t.Errorf("the second container printed %q", out)
	}
}

// TestNothingIsLeftWhicheverStepFails lets the creation of a container fail at
// its devices, its storages, its spec and its process.
func TestNothingIsLeftWhicheverStepFails(t *testing.T) {
	v := Boot(t, Options{Params: []string{"agent.hotplug_timeout=1"}}).Sandbox()
	v.AddDisk("disk", v.Disk("disk", 16, Ext4()...))
	v.PlugDisk("disk", place0)
	const home = "/run/kata-containers/box"
	storages := []*agentpb.Storage{
		{Driver: "ephemeral", MountPoint: home + "/memory"},
		{Driver: "blk", Source: place0, Fstype: "ext4", MountPoint: home + "/disk"},
		{Driver: "local", MountPoint: home + "/local"},
		{Driver: "overlayfs", MountPoint: home + "/rootfs", Options: []string{"io.katacontainers.fs-opt.overlay-rw", "lowerdir=" + Rootfs}},
	}
	request := func() *agentpb.CreateContainerRequest {
		spec := withDevice("true", "/dev/xvda", "r", 259, 3)
		spec.Root = &ocipb.Root{Path: home + "/rootfs"}
		return &agentpb.CreateContainerRequest{
			ContainerId: "box", OCI: spec, Storages: storages,
			Devices: []*agentpb.Device{{Type: "blk", Id: place0, ContainerPath: "/dev/xvda"}},
		}
	}
	state := "cat /proc/1/mountinfo | grep -v cgroup; find /proc/1/root/run/kata-containers | sort; ls /proc/1/fd | wc -l; find /proc/1/root/sys/fs/cgroup -name 'box*'"
	before := v.Shell(state)
	for _, tt := range []struct {
		name   string
		change func(*agentpb.CreateContainerRequest)
	}{
		{"a device that is not there", func(r *agentpb.CreateContainerRequest) {
			r.Devices = append(r.Devices, &agentpb.Device{Type: "blk", Id: place1, ContainerPath: "/dev/xvda"})
		}},
		{"a storage that is not there", func(r *agentpb.CreateContainerRequest) {
			r.Storages = append(r.Storages, &agentpb.Storage{Driver: "blk", Source: place1, Fstype: "ext4", MountPoint: home + "/none"})
		}},
		{"an unknown namespace", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Namespaces = append(r.OCI.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "colour"})
		}},
		{"a mount that is not possible", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &ocipb.Mount{Destination: "/tmp/x", Type: "nonsense", Source: "x"})
		}},
		{"a limit that is not possible", func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Resources.Unified = map[string]string{"memory.max": "nonsense"} // the kernel says so
		}},
	} {
		r := request()
		tt.change(r)
		if _, err := v.Agent.CreateContainer(v.Call(), r); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
		if after := v.Shell(state); after != before {
			t.Errorf("%s has left:\n%s\nbefore:\n%s", tt.name, after, before)
		}
		_, err := v.Agent.WaitProcess(v.Call(), &agentpb.WaitProcessRequest{ContainerId: "box"})
		if ttrpc.CodeOf(err) != ttrpc.NotFound {
			t.Errorf("%s: the container is known: %v", tt.name, err)
		}
	}
	v.Run(request())
	v.Remove("box")
	if after := v.Shell(state); after != before {
		t.Errorf("in the end there is:\n%s\nbefore:\n%s", after, before)
	}
	v.Unplug("disk")
}
