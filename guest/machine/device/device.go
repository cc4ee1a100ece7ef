// Package device finds devices that the host has given to the guest, by what
// the host knows of them: the path on the PCI bus, the SCSI address, or a name
// that can be foretold.
//
// A [Finder] waits for a device that is being plugged in, up to the hotplug
// time-out (agent.hotplug_timeout); package uevent says how. A time-out names
// what was awaited. A Finder holds nothing and keeps no list: each question is
// answered from sysfs, so that it does not matter when and how a device came.
package device

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/machine/uevent"
	"kata/lib/fmt"
)

// Finder finds devices. Its methods may be called concurrently.
type Finder struct {
	sys, dev string
	timeout  time.Duration
}

// NewFinder returns a finder that waits for so long for a device; with 0 it has
// to be there already.
func NewFinder(timeout time.Duration) *Finder {
	return &Finder{sys: "/sys", dev: "/dev", timeout: timeout}
}

// Timeout is how long the finder waits for a device.
func (f *Finder) Timeout() time.Duration { return f.timeout }

// Block is a block device that can be opened.
type Block struct {
	// Path is that of its node, below /dev.
	Path         string
	Major, Minor uint32
}

// open returns the block device of a node, or the zero Block while there is none
// that can be opened: the node exists a little before the device answers.
func (f *Finder) open(node string) (Block, error) {
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	} else if gone(err) {
		return Block{}, nil
	}
	// Other errors (no medium, in use) are for those to find out who use it.
	var stat unix.Stat_t
	if err := unix.Stat(node, &stat); err != nil {
		return Block{}, ignoreMissing(&os.PathError{Op: "stat", Path: node, Err: err})
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Block{}, errors.New(node + " is not a block device")
	}
	return Block{Path: node, Major: unix.Major(stat.Rdev), Minor: unix.Minor(stat.Rdev)}, nil
}

// IsNode reports whether text is the path of something below /dev.
func IsNode(text string) bool {
	return strings.HasPrefix(text, "/dev/") && path.Clean(text) == text && strings.IndexByte(text, 0) < 0
}

// BlockNamed waits for the block device whose node is the path node, below /dev:
// virtio-mmio ones, persistent memory, and what was there at boot.
func (f *Finder) BlockNamed(ctx context.Context, node string) (Block, error) {
	if !IsNode(node) {
		return Block{}, errors.New(strconv.Quote(node) + " is not a path below /dev")
	}
	var b Block
	err := uevent.Await(ctx, "block device "+node, f.timeout, func() (found bool, err error) {
		b, err = f.open(filepath.Join(f.dev, strings.TrimPrefix(node, "/dev/")))
		return b.Path != "", err
	})
	return b, err
}

// SCSIAddress is the place of a disk on a SCSI host: target and logical unit.
// The host and its channel are not part of it, since a machine has one of each.
type SCSIAddress struct{ Target, LUN uint32 }

// ParseSCSIAddress parses TARGET:LUN, upstream's form.
func ParseSCSIAddress(text string) (SCSIAddress, error) {
	target, lun, ok := strings.Cut(text, ":")
	t, err1 := strconv.ParseUint(target, 10, 16)
	l, err2 := strconv.ParseUint(lun, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return SCSIAddress{}, errors.New(strconv.Quote(text) + " is not a SCSI address, TARGET:LUN")
	}
	return SCSIAddress{uint32(t), uint32(l)}, nil
}

func (a SCSIAddress) String() string { return a.join(":") }

func (a SCSIAddress) join(with string) string {
	return strconv.FormatUint(uint64(a.Target), 10) + with + strconv.FormatUint(uint64(a.LUN), 10)
}

// SCSI waits for the disk at a, after it has made each SCSI host look there.
func (f *Finder) SCSI(ctx context.Context, a SCSIAddress) (Block, error) {
	var b Block
	var scanned []string
	err := uevent.Await(ctx, "SCSI disk "+a.String(), f.timeout, func() (found bool, err error) {
		for {
			if b, err = f.disk(a); b.Path != "" || err != nil {
				return err == nil, err
			}
			fresh, err := f.scan(a, scanned)
			if len(fresh) == 0 || err != nil {
				return false, err
			}
			scanned = append(scanned, fresh...)
		}
	})
	return b, err
}

// disk returns the disk at a if there is one; of several hosts that have one
// the first counts.
func (f *Finder) disk(a SCSIAddress) (Block, error) {
	devices := filepath.Join(f.sys, "bus/scsi/devices")
	all, err := readDir(devices)
	if err != nil {
		return Block{}, err
	}
	for _, address := range all {
		// HOST:CHANNEL:TARGET:LUN; hosts and targets are in the list too.
		host, place, _ := strings.Cut(address, ":")
		if _, err := strconv.Atoi(host); err != nil || place != "0:"+a.String() {
			continue
		}
		names, err := readDir(filepath.Join(devices, address, "block"))
		if err != nil {
			return Block{}, err
		}
		if len(names) > 0 {
			return f.open(filepath.Join(f.dev, names[0]))
		}
	}
	return Block{}, nil
}

// scan makes the SCSI hosts that are not among scanned look for a and returns
// their names.
func (f *Finder) scan(a SCSIAddress, scanned []string) (fresh []string, err error) {
	hosts := filepath.Join(f.sys, "class/scsi_host")
	all, err := readDir(hosts)
	if err != nil {
		return nil, err
	}
	for _, host := range all {
		if slices.Contains(scanned, host) {
			continue
		}
		// Channel, target, logical unit (Documentation/scsi/scsi-parameters.rst).
		file := filepath.Join(hosts, host, "scan")
		if err := write(file, "0 "+a.join(" ")); ignoreMissing(err) != nil {
			return nil, fmt.Errorf("scan for SCSI disk %s: %w", a.String(), err)
		}
		fresh = append(fresh, host)
	}
	return fresh, nil
}

// readDir returns the names in a folder in order; one that is not there is
// empty.
func readDir(dir string) ([]string, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	names, err := file.Readdirnames(-1)
	err = errors.Join(ignoreMissing(err), file.Close())
	sort.Stable(sort.StringSlice(names))
	return names, err
}

// write writes value to a file of the kernel, which must exist.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
