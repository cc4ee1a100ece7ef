package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kata/host/vmm"
	"kata/host/vmm/qemu/qmp"
)

// PlugBlock implements [vmm.BlockPlugger]: virtio-blk-pci on a block node whose
// file is in a descriptor set of QEMU's.
func (m *Machine) PlugBlock(ctx context.Context, disk vmm.Block) (vmm.PCIPath, error) {
	path, err := m.plugBlock(ctx, &disk)
	if err != nil {
		return "", fmt.Errorf("plug disk %s into machine %s: %w", disk.ID, m.spec.ID, err)
	}
	return path, nil
}

func (m *Machine) plugBlock(ctx context.Context, disk *vmm.Block) (vmm.PCIPath, error) {
	if err := disk.Validate(); err != nil {
		return "", err
	}
	file, driver, err := blockFile(disk)
	if err != nil {
		return "", err
	}
	defer file.Close()
	set := part{
		add: func(ctx context.Context, q *qmp.Client, serial int) error {
			return q.ExecuteWithFile(ctx, "add-fd", args{"fdset-id": serial}, nil, file)
		},
		remove: func(ctx context.Context, q *qmp.Client, serial int) error {
			return q.Execute(ctx, "remove-fd", args{"fdset-id": serial}, nil)
		},
	}
	node := part{
		add: func(ctx context.Context, q *qmp.Client, serial int) error {
			return q.Execute(ctx, "blockdev-add", args{
				"driver": driver, "node-name": nodeName(serial), "filename": fmt.Sprintf("/dev/fdset/%d", serial),
				"read-only": disk.ReadOnly, "discard": "unmap",
			}, nil)
		},
		remove: func(ctx context.Context, q *qmp.Client, serial int) error {
			return q.Execute(ctx, "blockdev-del", args{"node-name": nodeName(serial)}, nil)
		},
	}
	return m.plug(ctx, disk.ID, []part{set, node}, func(serial int) args {
		return args{"driver": "virtio-blk-pci", "drive": nodeName(serial)}
	})
}

func nodeName(serial int) string { return fmt.Sprintf("node%d", serial) }

// blockFile returns a descriptor that is open as QEMU will want it, and QEMU's
// driver for it.
func blockFile(disk *vmm.Block) (*os.File, string, error) {
	info, err := disk.File.Stat()
	if err != nil {
		return nil, "", err
	}
	driver := "file"
	switch mode := info.Mode(); {
	case mode.IsRegular():
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		driver = "host_device"
	default:
		return nil, "", fmt.Errorf("%s is neither a file nor a block device", disk.File.Name())
	}
	file, err := duplicate(disk.File)
	if err != nil {
		return nil, "", err
	}
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	access := flags & unix.O_ACCMODE
	switch {
	case err != nil:
	case !disk.ReadOnly && access != unix.O_RDWR:
		err = fmt.Errorf("%s is not open for reading and writing", disk.File.Name())
	case disk.ReadOnly && access == unix.O_WRONLY:
		err = fmt.Errorf("%s is open for writing only", disk.File.Name())
	case disk.ReadOnly && access == unix.O_RDWR:
		// QEMU takes from a set what has exactly the mode that it opens with.
		reopened, reopenErr := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		file.Close()
		return reopened, driver, reopenErr
	}
	if err != nil {
		file.Close()
		return nil, "", err
	}
	return file, driver, nil
}

// ResizeBlock implements [vmm.BlockResizer].
func (m *Machine) ResizeBlock(ctx context.Context, id string, bytes int64) error {
	q, err := m.running()
	d, ok := m.slots.locate(id)
	if err == nil && (!ok || d.serial == 0) {
		err = vmm.ErrNotPlugged
	}
	if err == nil {
		err = q.Execute(ctx, "block_resize", args{"node-name": nodeName(d.serial), "size": bytes}, nil)
	}
	if err != nil {
		return fmt.Errorf("resize disk %s of machine %s: %w", id, m.spec.ID, err)
	}
	return nil
}

// PlugNetwork implements [vmm.NetworkPlugger]: virtio-net-pci on a tap whose
// queues are descriptors.
func (m *Machine) PlugNetwork(ctx context.Context, nic vmm.Network) (vmm.PCIPath, error) {
	path, err := m.plugNetwork(ctx, &nic)
	if err != nil {
		return "", fmt.Errorf("plug network device %s into machine %s: %w", nic.ID, m.spec.ID, err)
	}
	return path, nil
}

func (m *Machine) plugNetwork(ctx context.Context, nic *vmm.Network) (vmm.PCIPath, error) {
	if err := nic.Validate(); err != nil {
		return "", err
	}
	backend := part{
		add: func(ctx context.Context, q *qmp.Client, serial int) error { return addTap(ctx, q, serial, nic) },
		remove: func(ctx context.Context, q *qmp.Client, serial int) error {
			return q.Execute(ctx, "netdev_del", args{"id": netName(serial)}, nil)
		},
	}
	return m.plug(ctx, nic.ID, []part{backend}, func(serial int) args {
		options := args{"driver": "virtio-net-pci", "netdev": netName(serial), "mac": nic.MAC.String(), "romfile": ""}
		if queues := len(nic.Taps); queues > 1 {
			// An interrupt each for both directions of a pair, one for changes and
			// one for the control queue.
			options["mq"], options["vectors"] = true, 2*queues+2
		}
		return options
	})
}

func netName(serial int) string { return fmt.Sprintf("net%d", serial) }

func addTap(ctx context.Context, q *qmp.Client, serial int, nic *vmm.Network) error {
	options := args{"type": "tap", "id": netName(serial)}
	pass := func(option, kind string, files []*os.File) (err error) {
		var names []string
		for i, file := range files {
			name := fmt.Sprintf("%s%d-%d", kind, serial, i)
			if err := passFile(ctx, q, name, file); err != nil {
				return err
			}
			names = append(names, name)
		}
		options[option] = strings.Join(names, ":")
		return nil
	}
	err := pass("fds", "tap", nic.Taps)
	if err == nil && len(nic.Vhost) > 0 {
		options["vhost"] = true
		err = pass("vhostfds", "vhost", nic.Vhost)
	}
	if err == nil {
		err = q.Execute(ctx, "netdev_add", options, nil)
	}
	if err != nil {
		for i := range nic.Taps {
			dropFile(ctx, q, fmt.Sprintf("tap%d-%d", serial, i))
			dropFile(ctx, q, fmt.Sprintf("vhost%d-%d", serial, i))
		}
	}
	return err
}

// PlugShare implements [vmm.SharePlugger].
func (m *Machine) PlugShare(ctx context.Context, share vmm.Share) (vmm.PCIPath, error) {
	err := share.Validate()
	var path vmm.PCIPath
	if err == nil {
		path, err = m.plugVhostUser(ctx, share.Tag, share.Socket, args{
			"driver": "vhost-user-fs-pci", "tag": share.Tag, "queue-size": fsQueue(share),
		})
	}
	if err != nil {
		return "", fmt.Errorf("plug share %s into machine %s: %w", share.Tag, m.spec.ID, err)
	}
	return path, nil
}

// PlugVsock implements [vmm.VsockPlugger].
func (m *Machine) PlugVsock(ctx context.Context, vsock vmm.Vsock) (vmm.PCIPath, error) {
	err := vsock.Validate()
	var path vmm.PCIPath
	if err == nil {
		path, err = m.plugVhostUser(ctx, vmm.VsockID, vsock.Socket, args{"driver": "vhost-user-vsock-pci"})
	}
	if err != nil {
		return "", fmt.Errorf("plug the vsock device into machine %s: %w", m.spec.ID, err)
	}
	return path, nil
}

// plugVhostUser plugs a device whose back-end listens on a socket.
func (m *Machine) plugVhostUser(ctx context.Context, id, socket string, options args) (vmm.PCIPath, error) {
	conn, err := dialFile(socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	name := func(serial int) string { return fmt.Sprintf("chr%d", serial) }
	chardev := part{
		add: func(ctx context.Context, q *qmp.Client, serial int) error {
			err := passFile(ctx, q, name(serial), conn)
			if err == nil {
				err = q.Execute(ctx, "chardev-add", args{"id": name(serial), "backend": args{"type": "socket", "data": args{
					"addr": args{"type": "fd", "data": args{"str": name(serial)}}, "server": false,
				}}}, nil)
			}
			if err != nil {
				dropFile(ctx, q, name(serial))
			}
			return err
		},
		remove: func(ctx context.Context, q *qmp.Client, serial int) error {
			err := q.Execute(ctx, "chardev-remove", args{"id": name(serial)}, nil)
			var refused *qmp.Error
			if errors.As(err, &refused) && strings.Contains(refused.Desc, "not found") {
				return nil // QEMU has no class for it
			}
			return err
		},
	}
	return m.plug(ctx, id, []part{chardev}, func(serial int) args {
		options["chardev"] = name(serial)
		return options
	})
}
