// Package volume looks after file systems that are mounted in the guest already:
// it says how full one is, makes one larger after its device has grown, and
// forgets shared folders that the host has taken away.
//
// It mounts nothing: that is package storage. Volumes are named by their path
// outside any container.
package volume

import (
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
)

// Errors that callers tell apart, for errors.Is.
var (
	// ErrNotFound: there is no such volume.
	ErrNotFound error = fault.NotFound
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid error = fault.Invalid
	// ErrUnable: it cannot be done to this volume, or not now.
	ErrUnable = fault.New(fault.State, "not possible")
)

// failure is an error of a kind, for errors.Is, whose text says all there is to
// say.
type failure struct {
	kind error
	text string
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

func fail(kind error, text string) error { return &failure{kind, text} }

// about says what an error is about and leaves its kind.
func about(what string, err error) error {
	if err == nil {
		return nil
	}
	kind := err
	if refused, ok := err.(*failure); ok {
		kind = refused.kind
	}
	return fail(kind, what+": "+err.Error())
}

// open returns an O_PATH descriptor of path, which the caller closes.
func open(path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err == nil {
		return fd, nil
	}
	kind := ErrInvalid // ELOOP, ENAMETOOLONG
	if err == unix.ENOENT || err == unix.ENOTDIR {
		kind = ErrNotFound
	}
	return -1, fail(kind, err.Error())
}

// openMounted is open for what is the root of a mount. Anything else is
// ErrNotFound.
func openMounted(path string) (int, error) {
	fd, err := open(path)
	if err != nil {
		return -1, err
	}
	var stat unix.Statx_t
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &stat); err == nil {
		if stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return fd, nil
		}
		err = fail(ErrNotFound, "nothing is mounted there")
	}
	unix.Close(fd)
	return -1, err
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
func Measure(path string) (s Stats, err error) {
	fd, err := open(path)
	var fs unix.Statfs_t
	if err == nil {
		defer unix.Close(fd)
		err = unix.Fstatfs(fd, &fs)
	}
	if err != nil {
		return s, about("volume "+path, err)
	}
	// Blocks are counted in fragments (statvfs(3)).
	unit := uint64(fs.Frsize)
	s.Bytes = Usage{Total: fs.Blocks * unit, Used: (fs.Blocks - min(fs.Bfree, fs.Blocks)) * unit, Available: fs.Bavail * unit}
	s.Inodes = Usage{Total: fs.Files, Used: fs.Files - min(fs.Ffree, fs.Files), Available: fs.Ffree}
	if err := readable(fd); err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}

// readable tries to open a directory or file: a file system in trouble may still
// count its blocks.
func readable(fd int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil
	}
	file, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(file)
}
