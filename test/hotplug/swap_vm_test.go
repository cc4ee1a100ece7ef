//go:build vm

package hotplug

import (
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ttrpc"
)

// TestSwap adds a disk that comes after the call, one by its name, and what is no
// swap area.
func TestSwap(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	disk := func(id string, mkfs ...string) {
		v.Helper()
		v.AddDisk(id, v.Disk(id, 32, mkfs...))
	}
	plug := func(id, bus, addr string) {
		v.Helper()
		v.Plug("virtio-blk-pci", "dev-"+id, bus, map[string]any{"drive": id, "addr": addr})
	}
	add := func(path ...uint32) error {
		_, err := v.Agent.AddSwap(v.Call(), &agentpb.AddSwapRequest{PCIPath: path})
		return err
	}
	addPath := func(path string) error {
		_, err := v.Agent.AddSwapPath(v.Call(), &agentpb.AddSwapPathRequest{Path: path})
		return err
	}
	swaps := func(want int) {
		t.Helper()
		if out := v.Shell("tail -n +2 /proc/swaps"); strings.Count(out, "\n") != want {
			t.Errorf("the guest swaps to %q, want %d areas", out, want)
		}
	}
	disk("one", "mkswap")
	done := make(chan error, 1)
	go func() { done <- add(3, 0) }()
	swaps(0)
	v.PlugDisk("one", place0)
	v.Must(<-done)
	swaps(1)
	v.wantCode(add(3, 0), ttrpc.AlreadyExists, "/dev/vda")

	disk("two", "mkswap")
	plug("two", "switch", "0")
	v.Must(add(8, 0, 0, 0))
	swaps(2)

	disk("blank")
	disk("ext4", Ext4()...)
	plug("blank", "legacy", "2")
	v.wantCode(add(7, 2), ttrpc.InvalidArgument, "/dev/vdc", "not a swap area")
	plug("ext4", "legacy", "3")
	v.wantCode(add(7, 3), ttrpc.InvalidArgument, "/dev/vdd", "not a swap area")
	v.wantCode(addPath("/dev/vdd"), ttrpc.InvalidArgument, "/dev/vdd", "not a swap area")
	if out := v.Shell("mkdir /tmp/m; mknod /tmp/vdd b 253 48; cat /sys/block/vdd/dev"); out == "" {
		t.Error("the disk is gone")
	}
	disk("three", "mkswap")
	v.Plug("virtio-blk-pci", "dev-three", "legacy", map[string]any{"drive": "three", "addr": "1"})
	v.until("the disk is there", func() bool { return strings.Contains(v.Shell("ls /sys/block"), "vde") })
	v.Must(addPath("/dev/vde"))
	swaps(3)

	for path, code := range map[string]ttrpc.Code{
		"": ttrpc.InvalidArgument, "vda": ttrpc.InvalidArgument, "/dev/\x00": ttrpc.InvalidArgument,
		"/dev/null": ttrpc.InvalidArgument, "/dev": ttrpc.InvalidArgument, "/proc/self/exe": ttrpc.InvalidArgument,
		"/dev/nothing": ttrpc.NotFound, "/init/x": ttrpc.NotFound, "/dev/vda": ttrpc.AlreadyExists,
		"/" + strings.Repeat("x", 5000): ttrpc.InvalidArgument, "/init": ttrpc.InvalidArgument,
	} {
		v.wantCode(addPath(path), code)
	}
	for _, path := range [][]uint32{nil, {32}, {4, 1 << 31}, make([]uint32, 1000)} {
		v.wantCode(add(path...), ttrpc.InvalidArgument, "PCIPath")
	}
	swaps(3)
}
