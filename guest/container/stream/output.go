package stream

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/vsock"
	"kata/lib/fmt"
)

// maxPending bounds what Written may have to read ahead from a terminal, whose
// kernel buffers hold less than that (64 KiB and a line).
const maxPending = 256 << 10

// output is where a process writes: the agent's end of a pipe, or a terminal.
type output struct {
	file     *os.File
	raw      syscall.RawConn
	terminal bool

	mu      sync.Mutex // held across reads that do not block only
	count   uint64     // bytes taken from file
	pending []byte     // taken from file by written, not yet handed on
}

// newOutput takes ownership of a non-blocking file, also when it fails.
func newOutput(file *os.File, terminal bool) (*output, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &output{file: file, raw: raw, terminal: terminal}, nil
}

// next waits for data and returns it in a buffer that the caller gives back;
// io.EOF when nothing can come any more, os.ErrClosed after close.
func (o *output) next(buffers *Buffers) (buf []byte, n int, err error) {
	pollErr := o.raw.Read(func(fd uintptr) bool {
		buf = buffers.get()
		n, err = o.take(int(fd), buf)
		if n > 0 {
			return true
		}
		buffers.put(buf)
		buf = nil
		return !errors.Is(err, unix.EAGAIN)
	})
	if pollErr != nil {
		return nil, 0, pollError(pollErr)
	}
	return buf, n, err
}

// take moves what there is into buf, without waiting.
func (o *output) take(fd int, buf []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) > 0 {
		n := copy(buf, o.pending)
		if o.pending = o.pending[n:]; len(o.pending) == 0 {
			o.pending = nil
		}
		return n, nil
	}
	return o.read(fd, buf)
}

// read reads from the file and counts. It needs mu.
func (o *output) read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EIO) && o.terminal:
			return 0, io.EOF // nobody has the terminal open any more (pty(7))
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		o.count += uint64(n)
		return n, nil
	}
}

// written returns how many bytes have been written so far: those taken and
// those that wait in the kernel.
func (o *output) written() uint64 {
	var total uint64
	// After close the count is all there is to say.
	err := o.raw.Control(func(fd uintptr) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.terminal {
			o.readAhead(int(fd))
			total = o.count
			return
		}
		waiting, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // = FIONREAD
		if err != nil {
			waiting = 0
		}
		total = o.count + uint64(waiting)
	})
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.count
	}
	return total
}

// readAhead takes all there is. The kernel says only of a pipe how much waits:
// of a terminal it counts the line discipline's 4 KiB and not the queue before
// it. It needs mu.
func (o *output) readAhead(fd int) {
	for len(o.pending) < maxPending {
		var chunk [smallBuffer]byte
		n, err := o.read(fd, chunk[:])
		if err != nil {
			return
		}
		o.pending = append(o.pending, chunk[:n]...)
	}
}

// copyTo copies to conn until the process's side ends, or the file is closed,
// and to nowhere once the host has closed its side.
func (o *output) copyTo(conn *vsock.Conn, buffers *Buffers) {
	for {
		buf, n, err := o.next(buffers)
		if err != nil {
			break
		}
		if conn != nil {
			if _, err := conn.Write(buf[:n]); err != nil {
				_ = conn.Close()
				conn = nil
			}
		}
		buffers.put(buf)
	}
	if conn != nil {
		lingerClose(conn)
	}
}

// lingerClose tells the host that all data has been sent and waits until it has
// closed its side: closing at once would make the kernel reset the connection,
// with the data in it, if the host took longer than eight seconds to read it
// (VSOCK_CLOSE_TIMEOUT).
func lingerClose(conn *vsock.Conn) {
	if conn.CloseWrite() == nil {
		var discarded [64]byte
		for {
			if _, err := conn.Read(discarded[:]); err != nil {
				break
			}
		}
	}
	_ = conn.Close()
}

// readOnce waits for data until ctx ends and returns at most limit bytes of it,
// or io.EOF. One call at a time.
func (o *output) readOnce(ctx context.Context, limit int, buffers *Buffers) ([]byte, error) {
	var data []byte
	var readErr error
	err := bounded(ctx, o.file.SetReadDeadline, func() error {
		return pollError(o.raw.Read(func(fd uintptr) bool {
			buf := buffers.get()
			defer buffers.put(buf)
			var n int
			n, readErr = o.take(int(fd), buf[:min(limit, len(buf))])
			data = append(data, buf[:n]...)
			return !errors.Is(readErr, unix.EAGAIN)
		}))
	})
	if err == nil {
		err = readErr
	}
	return data, err
}

// pollError gives an error of a RawConn the identity that os.File's methods
// give it: the poller fails for a deadline or because the file is closed.
func pollError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return os.ErrClosed
}

// bounded runs op, which waits on a file, and makes it end when ctx does, by
// the file's deadline. One op of a direction at a time.
func bounded(ctx context.Context, setDeadline func(time.Time) error, op func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = setDeadline(time.Unix(1, 0))
		close(expired)
	})
	err := op()
	if stop() {
		return err
	}
	<-expired
	if resetErr := setDeadline(time.Time{}); resetErr != nil && err == nil {
		return fmt.Errorf("reset deadline: %w", resetErr)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}
