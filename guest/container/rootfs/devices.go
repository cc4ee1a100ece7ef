package rootfs

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/inroot"
)

// defaultDevices are in every container (OCI runtime specification, "Default
// Devices").
func defaultDevices() []*ocipb.LinuxDevice {
	char := func(path string, major, minor int64) *ocipb.LinuxDevice {
		return &ocipb.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor, FileMode: 0o666}
	}
	return []*ocipb.LinuxDevice{
		char("/dev/null", 1, 3), char("/dev/zero", 1, 5), char("/dev/full", 1, 7),
		char("/dev/random", 1, 8), char("/dev/urandom", 1, 9), char("/dev/tty", 5, 0),
	}
}

// links are the symbolic links of every container's /dev.
var links = [...]struct{ name, target string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
}

// makeDevices makes the default nodes, the spec's and the links. A node of the
// spec takes the place of a default one with the same path.
func (r *Root) makeDevices(devices []*ocipb.LinuxDevice) error {
	asked := make(map[string]bool, len(devices))
	for _, d := range devices {
		asked[path.Clean(d.Path)] = true
	}
	for _, d := range defaultDevices() {
		if !asked[d.Path] {
			devices = append(devices[:len(devices):len(devices)], d)
		}
	}
	for _, d := range devices {
		if err := r.makeDevice(d); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	dev, err := inroot.MkdirAll(r.FD(), "/dev", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for _, link := range links {
		if err := unix.Symlinkat(link.target, dev, link.name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("link /dev/%s: %w", link.name, err)
		}
	}
	// Terminals are made by the container's own devpts, never by the guest's.
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("replace /dev/ptmx: %w", err)
	}
	if err := unix.Symlinkat("pts/ptmx", dev, "ptmx"); err != nil {
		return fmt.Errorf("link /dev/ptmx: %w", err)
	}
	return nil
}

// deviceTypes are the kinds of nodes that OCI knows.
var deviceTypes = map[string]uint32{
	"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO,
}

func (r *Root) makeDevice(d *ocipb.LinuxDevice) error {
	kind, ok := deviceTypes[d.Type]
	if !ok {
		return fmt.Errorf("unknown type %q", d.Type)
	}
	dir, name := path.Split(path.Clean("/" + d.Path))
	if name == "" {
		return fmt.Errorf("not a path of a node")
	}
	parent, err := inroot.MkdirAll(r.FD(), dir, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if isProc(parent) {
		return fmt.Errorf("the path leads into /proc")
	}
	mode := d.FileMode & 0o7777
	if mode == 0 {
		mode = 0o666
	}
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	if kind == unix.S_IFIFO {
		number = 0
	}
	err = unix.Mknodat(parent, name, kind|mode, int(number))
	if err == unix.EEXIST {
		return checkNode(parent, name, kind, number)
	}
	if err != nil {
		return err
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	return unix.Fchownat(parent, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// checkNode accepts what an image, or a volume on /dev, has already if it is
// the same device.
func checkNode(parent int, name string, kind uint32, number uint64) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || kind != unix.S_IFIFO && st.Rdev != number {
		return fmt.Errorf("something else is there")
	}
	return nil
}
