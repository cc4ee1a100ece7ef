package device

import (
	"bytes"
	"context"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"kata/guest/machine/uevent"
	"kata/lib/fmt"
)

// NetAt waits for the network device of the PCI device at p and returns its
// number, which stays when it gets another name.
func (f *Finder) NetAt(ctx context.Context, p PCIPath) (index int, err error) {
	err = uevent.Await(ctx, "network device at PCI path "+p.String(), f.timeout, func() (bool, error) {
		dir, err := f.sysfs(p)
		if dir == "" || err != nil {
			return false, err
		}
		index, err = netIn(dir)
		return index != 0, err
	})
	return index, err
}

// SysPath returns the path below /sys of a device that is named by its path,
// with or without /sys before it, as in the kernel's announcements.
func SysPath(text string) (string, error) {
	dir := strings.TrimPrefix(text, "/sys")
	if !strings.HasPrefix(dir, "/devices/") && !strings.HasPrefix(dir, "/class/") && !strings.HasPrefix(dir, "/bus/") ||
		path.Clean(dir) != dir || strings.IndexByte(dir, 0) >= 0 {
		return "", fmt.Errorf("%q is not the path of a device below /sys", text)
	}
	return dir, nil
}

// NetIn waits for the network device that dir (see [SysPath]) is or has, and
// returns its number.
func (f *Finder) NetIn(ctx context.Context, dir string) (index int, err error) {
	err = uevent.Await(ctx, "network device of /sys"+dir, f.timeout, func() (bool, error) {
		index, err = netIn(filepath.Join(f.sys, dir))
		return index != 0, err
	})
	return index, err
}

// netIn returns the number of the network device that dir is, or that is that of
// the device in dir or of its virtio device, or 0 as long as there is none.
func netIn(dir string) (int, error) {
	if index, err := ifindex(dir); index != 0 || err != nil {
		return index, err
	}
	parents := []string{dir}
	names, err := readDir(dir)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "virtio") {
			parents = append(parents, filepath.Join(dir, name))
		}
	}
	for _, parent := range parents {
		devices, err := readDir(filepath.Join(parent, "net"))
		if err != nil {
			return 0, err
		}
		for _, name := range devices {
			if index, err := ifindex(filepath.Join(parent, "net", name)); index != 0 || err != nil {
				return index, err
			}
		}
	}
	return 0, nil
}

// ifindex returns the number of the network device whose folder is dir, 0 if it
// is not one.
func ifindex(dir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "ifindex"))
	if err != nil {
		return 0, ignoreMissing(err)
	}
	index, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0, fmt.Errorf("%s/ifindex: %w", dir, err)
	}
	return index, nil
}
