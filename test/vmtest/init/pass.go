package main

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/vmtest/wire"
)

var aLongTimeAgo = time.Unix(1, 0)

// pass sends what arrives in the pipe until its end or its read deadline.
func pass(r *os.File, port io.Writer) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := wire.Write(port, wire.Output, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// drain sends what is in the pipe right now.
func drain(r *os.File, port io.Writer) error {
	conn, err := r.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		buf := make([]byte, 32<<10)
		for failed == nil {
			n, err := unix.Read(int(fd), buf)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return // EAGAIN: empty; 0: closed
			}
			failed = wire.Write(port, wire.Output, buf[:n])
		}
	})
	return errors.Join(err, failed)
}
