package stdio

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// input is the input stream: from containerd's end to the process.
type input struct {
	path   string
	source *os.File // nil: there is no input
	// decided is closed once it is known what the going of the last writer means:
	// the process was started, or the input was ended or closed.
	decided chan struct{}

	mu sync.Mutex
	// keeper is a writer of our own. While it is open, the going of the last
	// other writer is not the end of the input.
	keeper *os.File
	known  bool     // decided is closed
	dest   net.Conn // set while copying
	ending bool     // what is in the fifo is the last of the input
	closed bool
}

// openInput opens the reading end of the fifo name without waiting for a
// writer. The result is empty, not nil, for an empty name. hold keeps the input
// open from the start.
func openInput(name string, hold bool) (*input, error) {
	if scheme, path := split(name); scheme == "fifo" {
		name = path
	}
	in := &input{path: name, decided: make(chan struct{})}
	if name == "" {
		return in, nil
	}
	source, err := os.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	in.source = source
	if !hold {
		return in, nil
	}
	if err := in.keep(); err != nil {
		return nil, errors.Join(err, source.Close())
	}
	return in, nil
}

// keep opens the keeper.
func (in *input) keep() (err error) {
	in.keeper, err = os.OpenFile(in.path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	return err
}

// start decides what the going of the last writer means: the end of the input if
// it has happened already, and nothing from now on.
func (in *input) start() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.known || in.closed || in.source == nil {
		return nil
	}
	defer in.decide()
	if in.keeper != nil || in.abandoned() {
		return nil
	}
	return in.keep()
}

// decide wakes pump; in.mu is held.
func (in *input) decide() {
	if !in.known {
		in.known = true
		close(in.decided)
	}
}

// abandoned reports whether the fifo had a writer and has none any more: poll(2)
// reports a hang-up only then.
func (in *input) abandoned() (yes bool) {
	raw, err := in.source.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		yes = err == nil && fds[0].Revents&unix.POLLHUP != 0
	})
	return yes || err != nil
}

// kept waits until the meaning of a hang-up is decided, and tells whether the
// input goes on after it.
func (in *input) kept() bool {
	<-in.decided
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.keeper != nil && !in.closed && !in.ending
}

// copyTo copies until the end of the input and then half-closes dest, so that
// the process reads end of file. When the process stops reading, the reading
// end of the fifo is closed, and its writers are told.
func (in *input) copyTo(dest net.Conn) {
	if in.source != nil {
		in.pump(dest)
		_ = in.source.Close()
	}
	if half, ok := dest.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// begin announces copyTo, and tells whether there is anything to copy to.
func (in *input) begin(dest net.Conn) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || dest == nil {
		return false
	}
	in.dest = dest
	return true
}

func (in *input) pump(dest net.Conn) {
	var b buffers
	defer b.release()
	if err := in.awaitWriter(); err != nil && !isDeadline(err) {
		return
	}
	for n := 0; ; {
		buf := b.next(n)
		var err error
		n, err = in.source.Read(buf)
		if isDeadline(err) {
			in.drain(dest, buf)
			return
		}
		if n > 0 {
			if _, err := dest.Write(buf[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) && in.kept() {
			continue
		}
		if err != nil {
			return
		}
	}
}

// awaitWriter waits until the fifo has had a writer. Before that, a read would
// find end of file (fifo(7)), while poll(2) reports a hang-up only after one.
func (in *input) awaitWriter() error {
	raw, err := in.source.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		return err == nil && fds[0].Revents != 0
	})
}

// drain copies what is in the fifo already, after end has said that it is the
// last. Reads of a file whose deadline has passed find nothing, hence the
// system call.
func (in *input) drain(dest net.Conn, buf []byte) {
	raw, err := in.source.SyscallConn()
	if err != nil {
		return
	}
	for {
		n := 0
		if err := raw.Control(func(fd uintptr) { n = readNow(int(fd), buf) }); err != nil || n <= 0 {
			return
		}
		if _, err := dest.Write(buf[:n]); err != nil {
			return
		}
	}
}

// readNow reads what is there and does not wait for more; it returns 0 or less
// when there is nothing.
func readNow(fd int, buf []byte) int {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n
		}
	}
}

// end makes what is in the fifo the last of the input.
func (in *input) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ending || in.source == nil {
		return
	}
	in.ending = true
	in.decide()
	_ = in.source.SetReadDeadline(past)
}

// close ends copying whatever it waits for, and closes the fifo.
func (in *input) close() {
	if in == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.decide()
	if in.source != nil {
		_ = in.source.Close()
	}
	if in.keeper != nil {
		_ = in.keeper.Close()
	}
	if in.dest != nil {
		_ = in.dest.SetWriteDeadline(past)
	}
}
