package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/host/vmm"
	"kata/host/vsock"
)

// watched starts a machine whose guest says which devices come and go, and
// returns how to wait for what it says.
func (s *Suite) watched(t *testing.T, change func(*vmm.Spec)) (vmm.Machine, func(format string, args ...any)) {
	t.Helper()
	spec := s.Spec(t, "test.do=watch")
	if change != nil {
		change(&spec)
	}
	file := consoleFile(&spec)
	m := s.start(t, spec)
	AwaitConsole(t, m, file, "test: watching")
	return m, func(format string, args ...any) {
		t.Helper()
		AwaitConsole(t, m, file, fmt.Sprintf(format, args...))
	}
}

// disk makes a file whose first bytes are its name, open for reading and writing.
func disk(t *testing.T, name string) *os.File {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err = file.WriteString(name); err == nil {
		err = file.Truncate(1 << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func testBlock(t *testing.T, s *Suite) {
	const places = 9 // more than the functions of one slot
	m, await := s.watched(t, func(spec *vmm.Spec) { spec.HotplugDevices = places })
	blocks := m.(vmm.BlockPlugger)
	paths := map[vmm.PCIPath]string{}
	plug := func(id string) vmm.PCIPath {
		t.Helper()
		path, err := blocks.PlugBlock(deadline(t, Limit), vmm.Block{ID: id, File: disk(t, "this is "+id), ReadOnly: id == "disk3"})
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := paths[path]; taken {
			t.Fatalf("disks %s and %s are both at %s", id, other, path)
		}
		paths[path] = id
		if found, ok := m.(vmm.Locator).Locate(id); !ok || found != path {
			t.Errorf("disk %s is at %s and located at %q, %v", id, path, found, ok)
		}
		await("test: disk at %s has 2048 sectors, reads \"this is %s\" <nil>", path, id)
		return path
	}
	for n := range places {
		plug(fmt.Sprintf("disk%d", n))
	}
	_, err := blocks.PlugBlock(deadline(t, Limit), vmm.Block{ID: "disk0", File: disk(t, "twice")})
	wantIs(t, "a second disk of one id", err, vmm.ErrPlugged)
	_, err = blocks.PlugBlock(deadline(t, Limit), vmm.Block{ID: "more", File: disk(t, "more")})
	wantIs(t, "a disk too many", err, vmm.ErrNoSlot)

	wantIs(t, "unplug what is not there", blocks.Unplug(deadline(t, Limit), "nobody"), vmm.ErrNotPlugged)
	for path, id := range paths {
		if id != "disk0" && id != "disk8" { // one of each slot
			continue
		}
		if err := blocks.Unplug(deadline(t, Limit), id); err != nil {
			t.Fatal(err)
		}
		await("test: block at %s is gone", path)
		if _, ok := m.(vmm.Locator).Locate(id); ok {
			t.Errorf("disk %s is located after it was unplugged", id)
		}
		delete(paths, path)
		if again := plug(id + "-again"); again != path {
			t.Errorf("the place %s that became free is not used: %s", path, again)
		}
	}
	notWritable, err := os.Open(disk(t, "ro").Name())
	if err != nil {
		t.Fatal(err)
	}
	defer notWritable.Close()
	if _, err := blocks.PlugBlock(deadline(t, Limit), vmm.Block{ID: "ro", File: notWritable}); err == nil {
		t.Error("a disk to be written is plugged with a descriptor for reading")
	}
}

func testBlockResize(t *testing.T, s *Suite) {
	m, await := s.watched(t, nil)
	file := disk(t, "grows")
	path, err := m.(vmm.BlockPlugger).PlugBlock(deadline(t, Limit), vmm.Block{ID: "grows", File: file})
	if err != nil {
		t.Fatal(err)
	}
	await("test: disk at %s has 2048 sectors", path)
	if err := file.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if err := m.(vmm.BlockResizer).ResizeBlock(deadline(t, Limit), "grows", 4<<20); err != nil {
		t.Fatal(err)
	}
	await("test: disk at %s has 8192 sectors", path)
	wantIs(t, "resize what is not there", m.(vmm.BlockResizer).ResizeBlock(deadline(t, Limit), "nobody", 4<<20), vmm.ErrNotPlugged)
}

func testNetwork(t *testing.T, s *Suite) {
	m, await := s.watched(t, nil)
	nics := m.(vmm.NetworkPlugger)
	mac := net.HardwareAddr{2, 0x66, 0, 0, 0, 7}
	for _, queues := range []int{1, 2} {
		taps := taps(t, fmt.Sprintf("vmmtest%d", os.Getpid()%10000), queues)
		path, err := nics.PlugNetwork(deadline(t, Limit), vmm.Network{ID: "eth0", Taps: taps, MAC: mac})
		if err != nil {
			t.Fatal(err)
		}
		await("test: net at %s is %s", path, mac)
		if err := nics.Unplug(deadline(t, Limit), "eth0"); err != nil {
			t.Fatal(err)
		}
		await("test: net at %s is gone", path)
		for _, tap := range taps {
			tap.Close()
		}
		mac[5]++
	}
}

// taps makes a tap device and returns its queues. It goes with the last of them.
func taps(t *testing.T, name string, queues int) []*os.File {
	t.Helper()
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var files []*os.File
	for range queues {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "/dev/net/tun")
		t.Cleanup(func() { file.Close() })
		request, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		request.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			t.Fatalf("make tap %s: %v", name, err)
		}
		files = append(files, file)
	}
	return files
}

func testShare(t *testing.T, s *Suite) {
	m, await := s.watched(t, nil)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("good day"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(shortDir(t), "fs.sock")
	s.serveShare(t, s.Spawner, dir, socket)
	shares := m.(vmm.SharePlugger)
	path, err := shares.PlugShare(deadline(t, Limit), vmm.Share{Socket: socket, Tag: "plugged"})
	if err != nil {
		t.Fatal(err)
	}
	await("test: share at %s reads \"good day\" <nil>", path)
	if err := shares.Unplug(deadline(t, Limit), "plugged"); err != nil {
		t.Fatal(err)
	}
	_, err = shares.PlugShare(deadline(t, Limit), vmm.Share{Socket: filepath.Join(dir, "nobody.sock"), Tag: "nobody"})
	if err == nil || !strings.Contains(err.Error(), "nobody.sock") {
		t.Errorf("PlugShare = %v, want an error that names the socket", err)
	}
}

func testVsock(t *testing.T, s *Suite) {
	m, await := s.watched(t, nil)
	plugged := plugVsock(t, m, nil)
	await("test: vmw_vsock_virtio_transport at %s\r", plugged)
	if err := m.(vmm.VsockPlugger).Unplug(deadline(t, Limit), vmm.VsockID); err != nil {
		t.Fatal(err)
	}
}

// plugVsock plugs a vsock device and wants the guest's kernel to answer through
// it. The function returns the VMM's process id where the device is to reach the
// guest's memory in its address space.
func plugVsock(t *testing.T, m vmm.Machine, pid func() int) vmm.PCIPath {
	t.Helper()
	socket := filepath.Join(shortDir(t), "vsock.sock")
	device, err := vsock.New(vsock.Config{Socket: socket, GuestCID: 3, Log: slog.New(slog.DiscardHandler), VMM: pid})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- device.Run(context.Background()) }()
	t.Cleanup(func() {
		_ = device.Close()
		<-served
	})
	path, err := m.(vmm.VsockPlugger).PlugVsock(deadline(t, Limit), vmm.Vsock{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	// Nobody listens there, and the kernel says so.
	if conn, err := device.Dial(deadline(t, Limit), 999); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Dial of a port that nobody listens to: %v, %v", conn, err)
	}
	return path
}

// shortDir returns a folder whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
