// Package volume looks after file systems that are mounted in the guest already:
// it says how full one is, makes one larger after its device has grown, and
// forgets shared folders that the host has taken away.
//
// It mounts nothing: that is package storage. Volumes are named by their path
// outside any container.
package volume

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart, for errors.Is.
var (
	// ErrNotFound: there is no such volume.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrUnable: it cannot be done to this volume, or not now.
	ErrUnable = errors.New("not possible")
)

// failure is an error of a kind, for errors.Is, whose text says all there is to
// say.
type failure struct {
	kind error
	text string
}

func (f *failure) Error() string        { return f.text }
func (f *failure) Is(target error) bool { return target == f.kind }

func fail(kind error, format string, args ...any) error {
	return &failure{kind, fmt.Sprintf(format, args...)}
}

// open returns an O_PATH descriptor of path, which the caller closes.
func open(path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	switch err {
	case nil:
		return fd, nil
	case unix.ENOENT, unix.ENOTDIR:
		return -1, fail(ErrNotFound, "%v", err)
	case unix.ELOOP, unix.ENAMETOOLONG:
		return -1, fail(ErrInvalid, "%v", err)
	}
	return -1, os.NewSyscallError("openat2", err)
}

// openMounted is open for what is the root of a mount. Anything else is
// ErrNotFound.
func openMounted(path string) (int, error) {
	fd, err := open(path)
	if err != nil {
		return -1, err
	}
	var stat unix.Statx_t
	err = os.NewSyscallError("statx", unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &stat))
	if err == nil && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		err = fail(ErrNotFound, "nothing is mounted there")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// procPath names what a descriptor refers to, for system calls that want a path.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Usage is how much there is of something, and how much of that is used.
// Available is less than the rest where some of it is reserved.
type Usage struct{ Total, Used, Available uint64 }

// Stats is how full a volume is.
type Stats struct {
	Bytes, Inodes Usage
	// Problem says what is wrong with the volume, empty if nothing is.
	Problem string
}

// Measure returns how full the file system at path is.
func Measure(path string) (Stats, error) {
	fd, err := open(path)
	if err != nil {
		return Stats{}, fmt.Errorf("volume %s: %w", path, err)
	}
	defer unix.Close(fd)
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil {
		return Stats{}, fmt.Errorf("volume %s: %w", path, os.NewSyscallError("fstatfs", err))
	}
	// Blocks are counted in fragments (statvfs(3)).
	unit := uint64(stat.Frsize)
	if unit == 0 {
		unit = uint64(stat.Bsize)
	}
	s := Stats{
		Bytes: Usage{
			Total: stat.Blocks * unit, Available: stat.Bavail * unit,
			Used: (stat.Blocks - min(stat.Bfree, stat.Blocks)) * unit,
		},
		Inodes: Usage{Total: stat.Files, Available: stat.Ffree, Used: stat.Files - min(stat.Ffree, stat.Files)},
	}
	s.Problem = problem(fd)
	return s, nil
}

// problem tries to read from a directory or file: a file system in trouble may
// still count its blocks.
func problem(fd int) string {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	if kind := stat.Mode & unix.S_IFMT; err == nil && (kind == unix.S_IFDIR || kind == unix.S_IFREG) {
		var root int
		if root, err = unix.Open(procPath(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(root)
		}
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
