package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kata/guest/machine/uevent"
	"kata/lib/fmt"
)

// VFIO is a PCI device that a container's own driver may use.
type VFIO struct {
	// Address is DDDD:BB:DD.F.
	Address string
	// Group is the number of its IOMMU group.
	Group string

	finder *Finder
}

const vfioDriver = "vfio-pci"

// GiveToVFIO takes the PCI device at address from its driver and gives it to
// vfio-pci. Release undoes that.
func (f *Finder) GiveToVFIO(address string) (*VFIO, error) {
	dir := f.pciDevice(address)
	link, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("PCI device %s is in no IOMMU group, which VFIO needs", address)
	}
	if err != nil {
		return nil, err
	}
	v := &VFIO{Address: address, Group: filepath.Base(link), finder: f}
	if err := f.bind(address, vfioDriver); err != nil {
		return nil, errors.Join(fmt.Errorf("give PCI device %s to %s: %w", address, vfioDriver, err), v.Release())
	}
	return v, nil
}

// Release gives the device back to the driver that it would have by itself. A
// device that is gone is no error.
func (v *VFIO) Release() error {
	if err := v.finder.bind(v.Address, ""); ignoreMissing(err) != nil {
		return fmt.Errorf("take PCI device %s from %s: %w", v.Address, vfioDriver, err)
	}
	return nil
}

func (f *Finder) pciDevice(address string) string {
	return filepath.Join(f.sys, "bus/pci/devices", address)
}

// bind makes a PCI device one of a driver, or of the one that suits it if that is
// empty (Documentation/ABI/testing/sysfs-bus-pci, driver_override).
func (f *Finder) bind(address, driver string) error {
	dir := f.pciDevice(address)
	if err := write(filepath.Join(dir, "driver_override"), driver+"\n"); err != nil {
		return err
	}
	present, err := os.Readlink(filepath.Join(dir, "driver"))
	switch {
	case err == nil && filepath.Base(present) == driver:
		return nil
	case err == nil:
		if err := write(filepath.Join(dir, "driver/unbind"), address); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return write(filepath.Join(f.sys, "bus/pci/drivers_probe"), address)
}

// Node is a character device that is there.
type Node struct {
	Path         string
	Major, Minor uint32
}

// VFIOGroup waits for the node of an IOMMU group.
func (f *Finder) VFIOGroup(ctx context.Context, group string) (Node, error) {
	node := Node{Path: filepath.Join(f.dev, "vfio", group)}
	err := uevent.Await(ctx, "VFIO group "+group, f.timeout, func() (bool, error) {
		var stat unix.Stat_t
		if err := unix.Stat(node.Path, &stat); err != nil {
			return false, ignoreMissing(err)
		}
		node.Major, node.Minor = unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
		return stat.Mode&unix.S_IFMT == unix.S_IFCHR, nil
	})
	return node, err
}
