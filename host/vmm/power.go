package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// A power is what a machine can do while its guest runs. Each is an interface of
// its own: a driver implements those that its VMM has, and who needs one asks
// with a type assertion. Unless a method says otherwise it needs a running
// machine, ctx bounds it, and after an error nothing has changed.

// PCIPath says where the guest finds a device: the slots of the bridges on the
// way from the root bus and of the device itself, in hexadecimal, each with its
// function where that is not 0: "02", "1e.2/00". It is the agent's form, and does
// not depend on the bus numbers that the guest gives.
type PCIPath string

var (
	// ErrNoSlot is wrapped when every place for a device is taken.
	ErrNoSlot = errors.New("no free PCI slot")
	// ErrPlugged is wrapped when the id of a new device is in use.
	ErrPlugged = errors.New("a device has this id already")
	// ErrNotPlugged is wrapped when no device has the id.
	ErrNotPlugged = errors.New("no device has this id")
)

// Block is a disk. The driver opens nothing: it works on the file's descriptor,
// which stays the caller's and may be closed after the call.
type Block struct {
	// ID names the disk among the machine's devices: 1 to 32 letters, digits,
	// '-' or '_', the first one a letter.
	ID string
	// File is a raw image or a block device, open for reading, and for writing
	// unless ReadOnly.
	File     *os.File
	ReadOnly bool
}

// Network is a network device.
type Network struct {
	ID string // as Block.ID
	// Taps are the device's queue pairs, at least one: descriptors of
	// /dev/net/tun bound to one tap device with IFF_VNET_HDR. They stay the
	// caller's and may be closed after the call.
	Taps []*os.File
	// Vhost are descriptors of /dev/vhost-net, one for each of Taps, or none.
	Vhost []*os.File
	MAC   net.HardwareAddr // 6 bytes
}

// Plug and unplug. A device that was plugged is at its path from the moment the
// call returns; the guest notices it a little later (20 to 100 ms, measured).
type (
	// BlockPlugger adds disks (virtio-blk).
	BlockPlugger interface {
		PlugBlock(ctx context.Context, disk Block) (PCIPath, error)
		Unplugger
	}

	// BlockResizer tells the guest of a disk's new size. The file has it already.
	BlockResizer interface {
		ResizeBlock(ctx context.Context, id string, bytes int64) error
	}

	// NetworkPlugger adds network devices (virtio-net).
	NetworkPlugger interface {
		PlugNetwork(ctx context.Context, nic Network) (PCIPath, error)
		Unplugger
	}

	// SharePlugger adds virtio-fs devices, whose server listens already. The tag
	// is the device's id.
	SharePlugger interface {
		PlugShare(ctx context.Context, share Share) (PCIPath, error)
		Unplugger
	}

	// VsockPlugger adds the vsock device, of which a machine has one. Its id is
	// [VsockID].
	VsockPlugger interface {
		PlugVsock(ctx context.Context, vsock Vsock) (PCIPath, error)
		Unplugger
	}

	// Unplugger takes away what was plugged.
	Unplugger interface {
		// Unplug asks the guest to let a device go, and returns when it has and
		// the VMM holds nothing of it any more. When ctx ends before that, the
		// device may stay or go, and Unplug can be called again. Of a device
		// that is not there the error wraps [ErrNotPlugged].
		Unplug(ctx context.Context, id string) error
	}

	// Locator finds the devices that the machine was started with, and those
	// that were plugged since. It works from Start on.
	Locator interface {
		// Locate returns where the guest finds the device with this id: that of
		// a Block or Network, the tag of a Share, or VsockID.
		Locate(id string) (PCIPath, bool)
	}
)

// VsockID is the id of the vsock device.
const VsockID = "vsock"

// Resources of the running machine.
type (
	// VCPUResizer changes the number of vCPUs.
	VCPUResizer interface {
		// ResizeVCPUs makes the machine have n vCPUs, from those at boot up to
		// Spec.MaxVCPUs, and returns how many it has afterwards, also beside an
		// error: the guest may keep one that it was asked to give back. A vCPU
		// that was added is offline until the guest onlines it.
		ResizeVCPUs(ctx context.Context, n int) (int, error)
	}

	// MemoryResizer changes the size of memory.
	MemoryResizer interface {
		// ResizeMemory makes the machine have so many MiB, from Spec.MemoryMiB
		// up to Spec.MaxMemoryMiB, and returns how many it has afterwards, also
		// beside an error: the guest gives back what it can. Sizes between the
		// steps of the VMM are rounded up.
		ResizeMemory(ctx context.Context, mib int) (int, error)
	}
)

// Time.
type (
	// Pauser stops and continues the guest's vCPUs. Both are idempotent. A
	// paused machine is alive: it can be stopped, and its end is noticed.
	Pauser interface {
		Pause(ctx context.Context) error
		Resume(ctx context.Context) error
	}

	// Snapshotter saves a paused machine.
	Snapshotter interface {
		Pauser
		// Snapshot writes the state of vCPUs and devices into dir, an existing
		// folder, from which a machine with the same Spec and Spec.Restore set
		// continues. Memory is not written: it must be in Spec.MemoryFile. A
		// device whose back-end lives outside the VMM (vsock, share) cannot be
		// saved: such machines plug it after they were restored.
		Snapshot(ctx context.Context, dir string) error
	}
)

// Validate reports the first value that no driver can serve.
func (b *Block) Validate() error {
	if err := ValidateID(b.ID); err != nil {
		return err
	}
	if b.File == nil {
		return fmt.Errorf("disk %s has no file", b.ID)
	}
	return nil
}

// Validate reports the first value that no driver can serve.
func (n *Network) Validate() error {
	if err := ValidateID(n.ID); err != nil {
		return err
	}
	const macSize = 6
	switch {
	case len(n.Taps) == 0:
		return fmt.Errorf("network device %s has no tap", n.ID)
	case len(n.Vhost) != 0 && len(n.Vhost) != len(n.Taps):
		return fmt.Errorf("network device %s has %d taps and %d vhost descriptors", n.ID, len(n.Taps), len(n.Vhost))
	case len(n.MAC) != macSize || n.MAC[0]&1 != 0:
		return fmt.Errorf("network device %s: %q is no MAC address of a device", n.ID, n.MAC)
	}
	return nil
}

// ValidateID reports an id that a VMM could take for something else.
func ValidateID(id string) error {
	const maxID = 32
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	ok := id != "" && len(id) <= maxID && letter(id[0])
	for i := range len(id) {
		c := id[i]
		ok = ok && (letter(c) || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if !ok {
		return fmt.Errorf("device id %q is not 1 to %d letters, digits, '-' or '_', the first one a letter", id[:min(len(id), maxID)], maxID)
	}
	return nil
}
