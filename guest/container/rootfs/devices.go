package rootfs

import (
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// defaultDevices are in every container (OCI runtime specification, "Default
// Devices").
var defaultDevices = [...]struct {
	path         string
	major, minor uint32
}{
	{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
}

// links are the symbolic links of every container's /dev.
var links = [...]struct{ name, target string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
}

// nodes are the device nodes of a container: those of the plan and the default
// ones whose paths the plan has no node for.
func nodes(devices []plan.Device) []plan.Device {
	asked := make(map[string]bool, len(devices))
	for _, d := range devices {
		asked[path.Clean(d.Path)] = true
	}
	for _, d := range defaultDevices {
		if !asked[d.path] {
			devices = append(devices[:len(devices):len(devices)], plan.Device{
				Path: d.path, Kind: unix.S_IFCHR, Major: d.major, Minor: d.minor, Mode: 0o666,
			})
		}
	}
	return devices
}

// makeDevices makes the nodes and the links of /dev.
func (r *Root) makeDevices(devices []plan.Device) error {
	for i, d := range nodes(devices) {
		if err := r.makeDevice(i, &d); err != nil {
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

// makeDevice makes the node of index i.
func (r *Root) makeDevice(i int, d *plan.Device) error {
	dir, name := path.Split(path.Clean("/" + d.Path))
	parent, err := inroot.MkdirAll(r.FD(), dir, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if isProc(parent) {
		return fmt.Errorf("the path leads into /proc")
	}
	kind, number := d.Kind, unix.Mkdev(d.Major, d.Minor)
	if kind != unix.S_IFIFO && r.nodes != nil {
		return r.bindNode(i, parent, name, kind, number)
	}
	err = unix.Mknodat(parent, name, kind|d.Mode, int(number))
	if err == unix.EEXIST {
		return checkNode(parent, name, kind, number)
	}
	if err != nil || d.UID == 0 && d.GID == 0 {
		return err
	}
	return unix.Fchownat(parent, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// bindNode mounts the node of index i, which the runtime has made, on an empty
// file.
func (r *Root) bindNode(i, parent int, name string, kind uint32, number uint64) error {
	target, err := emptyFile(parent, name)
	if err == unix.EEXIST {
		return checkNode(parent, name, kind, number)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	node, err := unix.Openat(r.nodes.FD(), strconv.Itoa(i), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(node)
	tree, err := mount.Bind(node, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	return tree.Attach(target)
}

// emptyFile makes a file to mount on. One that is there and empty will do: it
// may be the image's, for this purpose.
func emptyFile(parent int, name string) (int, error) {
	fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return -1, err
	}
	target, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(target, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0) {
		err = unix.EEXIST
	}
	if err != nil {
		unix.Close(target)
		return -1, err
	}
	return target, nil
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
