package taskpid

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// held are the flags of every root. Its content is the guest's: no program of it
// is to run on the host, and no device node of it is to open a device of the
// host's.
const held = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// openRoot returns a detached mount that shows what is at path, with everything
// mounted below it; for no path an empty directory that cannot be written.
func openRoot(path string, readonly bool) (*os.File, error) {
	if path == "" {
		return emptyRoot()
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	root := os.NewFile(uintptr(fd), path)
	if info, err := root.Stat(); err != nil || !info.IsDir() {
		return nil, errors.Join(&os.PathError{Op: "open_tree", Path: path, Err: cmp.Or(err, error(unix.ENOTDIR))}, root.Close())
	}
	attr := unix.MountAttr{Attr_set: held, Propagation: unix.MS_PRIVATE}
	if readonly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, errors.Join(&os.PathError{Op: "mount_setattr", Path: path, Err: err}, root.Close())
	}
	return root, nil
}

func emptyRoot() (*os.File, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an empty root: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(context)
	for _, o := range []struct{ key, value string }{{"size", "4k"}, {"nr_inodes", "1"}, {"mode", "0555"}} {
		if err := unix.FsconfigSetString(context, o.key, o.value); err != nil {
			return nil, fmt.Errorf("make an empty root: %s: %w", o.key, os.NewSyscallError("fsconfig", err))
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("make an empty root: %w", os.NewSyscallError("fsconfig", err))
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, held|unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("make an empty root: %w", os.NewSyscallError("fsmount", err))
	}
	return os.NewFile(uintptr(fd), "empty root"), nil
}
