package hotplug

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Swap makes the kernel swap to a swap area: a block device or a file that holds
// one (mkswap(8)). Nothing is ever written to one that does not: it may hold
// something else. path must not lead through symbolic links.
func Swap(path string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	area, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err == nil {
		// By descriptor, so that what has been checked is what is used.
		err = swap(area, "/proc/self/fd/"+strconv.Itoa(area))
		unix.Close(area)
	}
	if err == nil {
		return nil
	}
	kind, reason := ErrUnable, err.Error()
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ENXIO:
		kind = ErrNotFound
	case unix.ELOOP:
		kind, reason = ErrInvalid, "there is a symbolic link on the way"
	case unix.ENOTBLK:
		kind, reason = ErrInvalid, "it is neither a block device nor a file"
	case errNoSwap:
		kind, reason = ErrInvalid, "it is not a swap area, which mkswap would make of it"
	case unix.ENAMETOOLONG, unix.EINVAL: // EINVAL: the kernel has looked at the rest
		kind = ErrInvalid
	case unix.EBUSY:
		kind, reason = ErrExists, "it is in use already"
	}
	return fail(kind, "swap to "+path+": "+reason)
}

// errNoSwap: there is no swap area.
const errNoSwap = unix.ENOMEDIUM

func swap(area int, name string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(area, &stat); err != nil {
		return err
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFBLK && kind != unix.S_IFREG {
		return unix.ENOTBLK
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// The last ten bytes of its first page say what it is (include/linux/swap.h).
	page := make([]byte, os.Getpagesize())
	n, err := unix.Pread(fd, page, 0)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(string(page[:n]), "SWAPSPACE2") {
		return errNoSwap
	}
	text, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(text)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
