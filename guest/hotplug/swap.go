package hotplug

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Swap makes the kernel swap to a swap area: a block device or a file that holds
// one (mkswap(8)). Nothing is ever written to one that does not: it may hold
// something else. path must not lead through symbolic links.
func Swap(path string) error {
	if err := swap(path); err != nil {
		return fmt.Errorf("swap to %s: %w", path, err)
	}
	return nil
}

func swap(path string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	area, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR:
		return fail(ErrNotFound, "%v", err)
	case unix.ELOOP:
		return fail(ErrInvalid, "there is a symbolic link on the way")
	case unix.ENAMETOOLONG:
		return fail(ErrInvalid, "%v", err)
	default:
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(area)
	var stat unix.Stat_t
	if err := unix.Fstat(area, &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFBLK && kind != unix.S_IFREG {
		return fail(ErrInvalid, "it is neither a block device nor a file")
	}
	// By descriptor, so that what has been checked is what is used.
	name := "/proc/self/fd/" + strconv.Itoa(area)
	if err := checkSwap(name); err != nil {
		return err
	}
	return swapOn(name)
}

// checkSwap finds out whether a file holds a swap area. The last ten bytes of its
// first page say so (include/linux/swap.h).
func checkSwap(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, unix.ENXIO) {
		return fail(ErrNotFound, "%v", err) // a device that is gone
	}
	if err != nil {
		return err
	}
	defer file.Close()
	page := make([]byte, os.Getpagesize())
	n, err := file.ReadAt(page, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if n != len(page) || !bytes.HasSuffix(page, []byte("SWAPSPACE2")) {
		return fail(ErrInvalid, "it is not a swap area, which mkswap would make of it")
	}
	return nil
}

func swapOn(name string) error {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.EBUSY:
		return fail(ErrExists, "it is in use already")
	case unix.EINVAL:
		return fail(ErrInvalid, "the kernel takes no such swap area: %v", errno)
	}
	return os.NewSyscallError("swapon", errno)
}
