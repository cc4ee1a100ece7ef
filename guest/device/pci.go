package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/uevent"
)

// rootBus is the PCI bus on which paths begin unless they name another one.
const rootBus = "0000:00"

// PCIPath leads to a PCI device from the root bus down: the slot of each bridge
// on the way and of the device itself. It does not depend on the bus numbers
// that the guest gives. The zero value is no path: see [ParsePCIPath].
type PCIPath struct {
	bus   string // the root bus, DDDD:BB
	slots []slot
}

// slot is a place on a PCI bus.
type slot struct{ device, function uint8 }

func (s slot) String() string { return fmt.Sprintf("%02x.%d", s.device, s.function) }

// ParsePCIPath parses a path in upstream's form: slots in hexadecimal, each with
// its function where that is not 0, from the root bus down: "02", "02/01",
// "03/00/1f.3". In a path of three parts or more the first may be the number of
// another root bus than 00, which is 20 or above and so no slot: "40/00/01".
func ParsePCIPath(text string) (PCIPath, error) {
	p := PCIPath{bus: rootBus}
	parts := strings.Split(text, "/")
	if len(parts) >= 3 {
		if bus, ok := parseHex(parts[0], 2); ok && bus > maxSlot {
			p.bus, parts = fmt.Sprintf("0000:%02x", bus), parts[1:]
		}
	}
	if len(parts) > maxDepth {
		return PCIPath{}, fmt.Errorf("%.32q… is not a PCI path: it is deeper than %d", text, maxDepth)
	}
	for _, part := range parts {
		s, ok := parseSlot(part)
		if !ok {
			return PCIPath{}, fmt.Errorf("%q is not a PCI path: %q is not a slot of 00 to 1f, with a function as in 1f.7", text, part)
		}
		p.slots = append(p.slots, s)
	}
	return p, nil
}

// NewPCIPath returns the path of the given slots, all with function 0.
func NewPCIPath(slots ...uint32) (PCIPath, error) {
	p := PCIPath{bus: rootBus}
	for _, s := range slots {
		if s > maxSlot {
			return PCIPath{}, fmt.Errorf("%d is not a PCI slot of 0 to %d", s, maxSlot)
		}
		p.slots = append(p.slots, slot{device: uint8(s)})
	}
	if len(p.slots) == 0 || len(p.slots) > maxDepth {
		return PCIPath{}, fmt.Errorf("a PCI path has 1 to %d slots, not %d", maxDepth, len(p.slots))
	}
	return p, nil
}

const (
	maxSlot     = 0x1f
	maxFunction = 7
	// maxDepth is the number of buses that there can be.
	maxDepth = 256
)

func parseSlot(text string) (slot, bool) {
	device, function, dotted := strings.Cut(text, ".")
	d, ok := parseHex(device, 2)
	if !ok || d > maxSlot {
		return slot{}, false
	}
	s := slot{device: uint8(d)}
	if dotted {
		f, ok := parseHex(function, 1)
		if !ok || f > maxFunction {
			return slot{}, false
		}
		s.function = uint8(f)
	}
	return s, true
}

// parseHex parses a number of at most so many hexadecimal digits.
func parseHex(text string, digits int) (uint64, bool) {
	if len(text) > digits {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 16, 32)
	return n, err == nil
}

// isBus reports whether text is DDDD:BB.
func isBus(text string) bool {
	domain, bus, _ := strings.Cut(text, ":")
	_, ok := parseHex(domain, 8)
	_, ok2 := parseHex(bus, 2)
	return ok && ok2 && len(domain) >= 4 && len(bus) == 2
}

// ParsePCIAddress parses the address of a PCI device, DDDD:BB:DD.F or without
// the domain, and returns it with the domain, in lower case.
func ParsePCIAddress(text string) (string, error) {
	address := strings.ToLower(text)
	if strings.Count(address, ":") == 1 {
		address = "0000:" + address
	}
	if i := strings.LastIndexByte(address, ':'); i >= 0 && isBus(address[:i]) {
		if s, ok := parseSlot(address[i+1:]); ok && s.String() == address[i+1:] {
			return address, nil
		}
	}
	return "", fmt.Errorf("%q is not the address of a PCI device, DDDD:BB:DD.F", text)
}

// String returns the path as [ParsePCIPath] takes it.
func (p PCIPath) String() string {
	var parts []string
	if p.bus != rootBus {
		parts = append(parts, strings.TrimPrefix(p.bus, "0000:"))
	}
	for _, s := range p.slots {
		if s.function == 0 {
			parts = append(parts, fmt.Sprintf("%02x", s.device))
		} else {
			parts = append(parts, s.String())
		}
	}
	return strings.Join(parts, "/")
}

// sysfs returns the folder of the device below /sys, or "" as long as it, or a
// bridge before it, is not there.
func (f *Finder) sysfs(p PCIPath) (string, error) {
	bus, dir := p.bus, filepath.Join(f.sys, "devices/pci"+p.bus)
	for i, s := range p.slots {
		if i > 0 {
			behind, err := f.busBehind(dir)
			if err != nil || behind == "" {
				return "", err
			}
			bus = behind
		}
		dir = filepath.Join(dir, bus+":"+s.String())
		if _, err := os.Stat(dir); err != nil {
			return "", ignoreMissing(err)
		}
	}
	return dir, nil
}

// busBehind returns the bus that the bridge in dir leads to, "" while it leads
// to none.
func (f *Finder) busBehind(dir string) (string, error) {
	names, err := readDir(filepath.Join(dir, "pci_bus"))
	switch {
	case err != nil:
		return "", err
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", fmt.Errorf("PCI device %s leads to the buses %s, of which one was expected", filepath.Base(dir), strings.Join(names, ", "))
	}
	// Base class 06 is a bridge; one that has just come has no bus yet.
	if class, err := os.ReadFile(filepath.Join(dir, "class")); err == nil && !strings.HasPrefix(string(class), "0x06") {
		return "", fmt.Errorf("PCI device %s is not a bridge", filepath.Base(dir))
	}
	return "", nil
}

// PCI waits for the PCI device at p and returns its address, DDDD:BB:DD.F.
func (f *Finder) PCI(ctx context.Context, p PCIPath) (address string, err error) {
	err = uevent.Await(ctx, "PCI device at path "+p.String(), f.timeout, func() (bool, error) {
		dir, err := f.sysfs(p)
		address = filepath.Base(dir)
		return dir != "", err
	})
	return address, err
}

// BlockAt waits for the virtio block device of the PCI device at p.
func (f *Finder) BlockAt(ctx context.Context, p PCIPath) (Block, error) {
	var b Block
	err := uevent.Await(ctx, "block device at PCI path "+p.String(), f.timeout, func() (bool, error) {
		name, err := f.child(p, "block")
		if name == "" || err != nil {
			return false, err
		}
		b, err = f.open(filepath.Join(f.dev, name))
		return b.Path != "", err
	})
	return b, err
}

// child returns the name of the device of a class that belongs to the PCI
// device at p, or "" if there is none yet. It lies below the PCI device itself
// or below its virtio device.
func (f *Finder) child(p PCIPath, class string) (string, error) {
	dir, err := f.sysfs(p)
	if dir == "" || err != nil {
		return "", err
	}
	names, err := readDir(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		var parent string
		switch {
		case name == class:
			parent = dir
		case strings.HasPrefix(name, "virtio"):
			parent = filepath.Join(dir, name)
		default:
			continue
		}
		if devices, err := readDir(filepath.Join(parent, class)); err != nil || len(devices) > 0 {
			if err != nil {
				return "", err
			}
			return devices[0], nil
		}
	}
	return "", nil
}

// ignoreMissing drops the error of something that is not there, also because it
// has just gone.
func ignoreMissing(err error) error {
	for _, gone := range [...]error{unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.ENOTDIR} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}
