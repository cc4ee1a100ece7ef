package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/machine/uevent"
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

func (s slot) String() string { return hex(s.device) + "." + strconv.Itoa(int(s.function)) }

// hex returns a number as two hexadecimal digits.
func hex(n uint8) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[n>>4], digits[n&0xf]})
}

// ParsePCIPath parses a path in upstream's form: slots in hexadecimal, each with
// its function where that is not 0, from the root bus down: "02", "02/01",
// "03/00/1f.3". In a path of three parts or more the first may be the number of
// another root bus than 00, which is 20 or above and so no slot: "40/00/01".
func ParsePCIPath(text string) (PCIPath, error) {
	p := PCIPath{bus: rootBus}
	parts := strings.Split(text, "/")
	if len(parts) >= 3 {
		if bus, ok := parseHex(parts[0], 0xff); ok && bus > maxSlot {
			p.bus, parts = "0000:"+hex(bus), parts[1:]
		}
	}
	if len(parts) > maxDepth {
		return PCIPath{}, errors.New(text[:32] + "… is not a PCI path: it is deeper than " + strconv.Itoa(maxDepth))
	}
	for _, part := range parts {
		s, ok := parseSlot(part)
		if !ok {
			return PCIPath{}, errors.New(strconv.Quote(text) + " is not a PCI path of slots from 00 to 1f, as 02/01 or 02/1f.7")
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
			return PCIPath{}, errors.New(strconv.FormatUint(uint64(s), 10) + " is not a PCI slot of 0 to 31")
		}
		p.slots = append(p.slots, slot{device: uint8(s)})
	}
	if len(p.slots) == 0 || len(p.slots) > maxDepth {
		return PCIPath{}, errors.New("a PCI path has 1 to 256 slots, not " + strconv.Itoa(len(p.slots)))
	}
	return p, nil
}

const (
	maxSlot     = 0x1f
	maxFunction = 7
	// maxDepth is the number of buses that there can be.
	maxDepth = 256
)

// parseSlot parses a slot, with its function behind a dot.
func parseSlot(text string) (s slot, ok bool) {
	device, function, dotted := strings.Cut(text, ".")
	s.device, ok = parseHex(device, maxSlot)
	if dotted && ok {
		s.function, ok = parseHex(function, maxFunction)
	}
	return s, ok
}

// parseHex parses a hexadecimal number of one or two digits, of at most limit.
func parseHex(text string, limit uint8) (uint8, bool) {
	n, err := strconv.ParseUint(text, 16, 8)
	return uint8(n), err == nil && uint8(n) <= limit && len(text) <= 2 && !(limit <= 0xf && len(text) > 1)
}

// ParsePCIAddress parses the address of a PCI device, DDDD:BB:DD.F or without
// the domain, and returns it with the domain, in lower case.
func ParsePCIAddress(text string) (string, error) {
	address := strings.ToLower(text)
	if strings.Count(address, ":") == 1 {
		address = "0000:" + address
	}
	domain, rest, _ := strings.Cut(address, ":")
	bus, place, _ := strings.Cut(rest, ":")
	s, ok := parseSlot(place)
	_, ok2 := parseHex(bus, 0xff)
	if _, err := strconv.ParseUint(domain, 16, 32); err == nil && ok && ok2 && len(domain) >= 4 && len(bus) == 2 && s.String() == place {
		return address, nil
	}
	return "", errors.New(text + " is not the address of a PCI device, DDDD:BB:DD.F")
}

// String returns the path as [ParsePCIPath] takes it.
func (p PCIPath) String() string {
	var parts []string
	if p.bus != rootBus {
		parts = append(parts, strings.TrimPrefix(p.bus, "0000:"))
	}
	for _, s := range p.slots {
		if s.function == 0 {
			parts = append(parts, hex(s.device))
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
		return "", errors.New("PCI device " + filepath.Base(dir) + " leads to the buses " + strings.Join(names, ", ") + ", of which one was expected")
	}
	// Base class 06 is a bridge; one that has just come has no bus yet.
	if class, err := os.ReadFile(filepath.Join(dir, "class")); err == nil && !strings.HasPrefix(string(class), "0x06") {
		return "", errors.New("PCI device " + filepath.Base(dir) + " is not a bridge")
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

// gone reports whether an error says that something is not there, also because
// it has just gone.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOTDIR)
}

// ignoreMissing drops an error for which gone is true.
func ignoreMissing(err error) error {
	if gone(err) {
		return nil
	}
	return err
}
