package rootfs

import (
	"errors"

	"golang.org/x/sys/unix"

	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// OpenTerminal allocates a pseudo-terminal in the devpts that is mounted on
// /dev/pts inside root and returns both of its ends, neither as controlling
// terminal.
func OpenTerminal(root int) (master, slave int, err error) {
	noDevpts := errors.New("it needs devpts on /dev/pts, which is not mounted there")
	dir, err := inroot.Open(root, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return -1, -1, noDevpts
	}
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(dir)
	// Only devpts has a node that can be opened without asking what it is.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(dir, &fs); err != nil {
		return -1, -1, err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return -1, -1, noDevpts
	}
	master, err = unix.Openat(dir, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(master)
		return -1, -1, fmt.Errorf("unlock the terminal: %w", err)
	}
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		unix.Close(master)
		return -1, -1, fmt.Errorf("open the terminal: %w", errno)
	}
	return master, int(fd), nil
}

// Terminal is OpenTerminal in this root; the slave also becomes /dev/console.
func (r *Root) Terminal() (master, slave int, err error) {
	master, slave, err = OpenTerminal(r.FD())
	if err != nil {
		return -1, -1, err
	}
	if err := r.mountConsole(slave); err != nil {
		unix.Close(master)
		unix.Close(slave)
		return -1, -1, fmt.Errorf("mount /dev/console: %w", err)
	}
	return master, slave, nil
}

func (r *Root) mountConsole(slave int) error {
	dev, err := inroot.MkdirAll(r.FD(), "/dev", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	fd, err := unix.Openat(dev, "console", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return err
	}
	target, err := unix.Openat(dev, "console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	tree, err := mount.Bind(slave, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	return tree.Attach(target)
}
