package qemu

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of the child: the first two of exec.Cmd's ExtraFiles, and where
// the others start.
const (
	qmpFD     = 3
	consoleFD = 4
	otherFDs  = 5
)

// inherited is a descriptor that QEMU is started with. It opens nothing by name
// that we know of: what it may open is decided here, with this process's
// privileges and in its mount namespace, whatever QEMU's are.
type inherited struct {
	open func() (*os.File, error)
}

// descriptors are the inherited ones, in the order of their numbers.
type descriptors []inherited

// add returns the number that a descriptor will have in QEMU. It is opened at
// launch.
func (d *descriptors) add(open func() (*os.File, error)) int {
	*d = append(*d, inherited{open})
	return otherFDs + len(*d) - 1
}

// path returns a name under which QEMU opens a file that we open.
func (d *descriptors) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d", d.add(func() (*os.File, error) { return os.Open(name) }))
}

// socket returns the number of a connection to a listening unix socket.
func (d *descriptors) socket(path string) int {
	return d.add(func() (*os.File, error) { return dialFile(path) })
}

// dup returns the number of a copy of file, which stays its owner's.
func (d *descriptors) dup(file *os.File) int {
	return d.add(func() (*os.File, error) { return duplicate(file) })
}

// open opens all of them; the caller closes them, also beside an error.
func (d descriptors) open() ([]*os.File, error) {
	var files []*os.File
	for _, one := range d {
		file, err := one.open()
		if err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}

// duplicate returns a new descriptor of the same open file.
func duplicate(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// connectWait bounds the wait for a listener whose queue is full.
const connectWait = 5 * time.Second

// dialFile connects to a unix socket, for a process that takes the connection
// over.
func dialFile(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	wait := unix.NsecToTimeval(int64(connectWait))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	for err == nil {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != unix.EINTR {
			break
		}
		err = nil
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
