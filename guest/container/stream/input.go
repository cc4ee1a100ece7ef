package stream

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/guest/agent/vsock"
)

// input is where a process reads from: the agent's end of a pipe, or a
// terminal.
type input struct {
	file     *os.File
	raw      syscall.RawConn
	terminal bool
}

// newInput takes ownership of a non-blocking file, also when it fails.
func newInput(file *os.File, terminal bool) (*input, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &input{file: file, raw: raw, terminal: terminal}, nil
}

// copyFrom copies from conn until the host ends the stream, the process's side
// is gone, or either is closed. The process reads end of file afterwards, unless
// it has a terminal: there the end of the stream means nothing, as under runc.
func (i *input) copyFrom(conn *vsock.Conn, buffers *Buffers) {
	for {
		buf, n, err := receive(conn, buffers)
		if err != nil {
			break
		}
		_, err = i.file.Write(buf[:n])
		buffers.put(buf)
		if err != nil {
			break
		}
	}
	_ = conn.Close()
	i.end()
}

// receive waits for data of conn and returns it in a buffer that the caller
// gives back.
func receive(conn *vsock.Conn, buffers *Buffers) (buf []byte, n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	pollErr := raw.Read(func(fd uintptr) bool {
		buf = buffers.get()
		for {
			n, err = unix.Read(int(fd), buf)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if n > 0 {
			return true
		}
		buffers.put(buf)
		buf = nil
		if err == nil {
			err = io.EOF
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if pollErr != nil {
		return nil, 0, pollError(pollErr)
	}
	return buf, n, err
}

// write writes p, waiting until ctx ends for the process to take it, and returns
// how much it took. One call at a time.
func (i *input) write(ctx context.Context, p []byte) (int, error) {
	var n int
	err := bounded(ctx, i.file.SetWriteDeadline, func() (err error) {
		n, err = i.file.Write(p)
		return err
	})
	return n, err
}

// end lets the process read end of file, now or after what has been written. A
// terminal has no such end.
func (i *input) end() {
	if !i.terminal {
		_ = i.file.Close()
	}
}
