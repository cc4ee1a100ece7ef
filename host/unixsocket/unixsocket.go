// Package unixsocket makes listening unix sockets that only the user of this
// process can connect to: their mode is 0600 from the moment they are there.
//
// The mode of a socket's file is that of the socket when it is bound (unix(7)), so
// it is set before bind(2). Neither the process's umask, which is shared by all
// threads, nor a chmod(2) after the bind, which others may be faster than, is
// needed.
package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest path of a socket, in bytes.
const MaxPath = 107

// Bind makes a socket at path, which must not exist, and returns it with
// close-on-exec set and blocking, as a child wants it. backlog is how many connections may wait for Accept; 0 leaves
// the socket bound without listening, so that connecting to it is refused. The
// caller closes the file and removes the path.
func Bind(path string, backlog int) (_ *os.File, err error) {
	fail := func(err error) error { return &os.PathError{Op: "listen on", Path: path, Err: err} }
	if len(path) > MaxPath {
		return nil, fail(fmt.Errorf("the path has %d bytes, a socket's has at most %d", len(path), MaxPath))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail(err)
	}
	if err := bind(fd, path, backlog); err != nil {
		return nil, errors.Join(fail(err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

func bind(fd int, path string, backlog int) error {
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if backlog == 0 {
		return nil
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// Listen listens at path, which must not exist. Closing the listener removes it.
func Listen(path string) (*net.UnixListener, error) {
	f, err := Bind(path, unix.SOMAXCONN)
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileListener duplicates it
	l, err := net.FileListener(f)
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "listen on", Path: path, Err: err}, os.Remove(path))
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(true)
	return listener, nil
}
