package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialVsock connects by the host's kernel (vsock(7)). Package net knows no such
// sockets; a file that polls does.
func dialVsock(ctx context.Context, cid, port uint32) (io.ReadWriteCloser, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port})
	connected := err == nil
	if !connected && !errors.Is(err, unix.EINPROGRESS) {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("vsock %d:%d", cid, port))
	if connected {
		return f, nil
	}
	if err := await(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// await waits until a connection in progress is one.
func await(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	err := awaitConnected(f)
	if !stop() {
		return context.Cause(ctx) // the deadline is set or about to be
	}
	return err
}

func awaitConnected(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		// With a peer it is connected, with an error pending it has failed, with
		// neither it goes on.
		number, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || number != 0 {
			failure = os.NewSyscallError("connect", errors.Join(err, errno(number)))
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	return errors.Join(failure, err)
}

// errno returns the error of a number, nil for 0.
func errno(number int) error {
	if number == 0 {
		return nil
	}
	return syscall.Errno(number)
}
