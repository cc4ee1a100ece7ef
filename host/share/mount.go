package share

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata/lib/ownedfd"
)

// detachedMount is a clone of a mount that is attached nowhere yet.
//
// Binding and then remounting read-only would be too late: propagation copies
// a mount as it is when attached, and the copy that virtiofsd serves, in its
// own namespace, could no longer be reached. So the clone gets its flags while
// detached.
type detachedMount struct {
	fd    *ownedfd.FD
	isDir bool
}

// cloneMount clones the mount at source; its later mounts and unmounts do not
// reach the clone.
func cloneMount(source string, readonly, recursive bool) (*detachedMount, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	attrFlags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
		attrFlags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return nil, &os.PathError{Op: "share", Path: source, Err: err}
	}
	m := &detachedMount{fd: ownedfd.New(fd)}
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if readonly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", attrFlags, &attr); err != nil {
		m.Close()
		return nil, &os.PathError{Op: "share: set mode of mount", Path: source, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		m.Close()
		return nil, &os.PathError{Op: "share: stat", Path: source, Err: err}
	}
	m.isDir = stat.Mode&unix.S_IFMT == unix.S_IFDIR
	return m, nil
}

// moveTo attaches the clone at target.
func (m *detachedMount) moveTo(target string) error {
	err := m.fd.Use(func(fd int) error {
		return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
	if err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// Close drops the descriptor; a clone that was not attached goes with it.
func (m *detachedMount) Close() { _ = m.fd.Close() }

// makeTarget makes the directory or empty file that a mount will cover. It
// must not exist: two mounts at one place would hide each other.
func makeTarget(target string, dir bool) error {
	if dir {
		return os.Mkdir(target, 0o755)
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

// detach unmounts target with what is mounted below it. A mount that virtiofsd
// still holds files of is busy, and so is one with mounts below: those are
// detached lazily, which frees the file system when the last user goes. What
// is not mounted or not there is no error.
func detach(target string) error {
	const flags = unix.UMOUNT_NOFOLLOW
	err := unix.Unmount(target, flags)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, flags|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
