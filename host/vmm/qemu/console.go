package qemu

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
)

const (
	consoleKept  = 32 << 10 // bytes of the console that are kept
	consoleLines = 25       // last lines that go into an error
	// consoleFileSize is how much one of the two files on disk holds.
	consoleFileSize = 4 << 20
	drainDelay      = 500 * time.Millisecond
)

// console reads the guest's serial port to its end.
type console struct {
	conn net.Conn
	tail *process.Tail
	file *consoleFile // all output; nil unless asked for
	done chan struct{}
}

// consoleFile is a console's copy on disk: two files that take turns, so that a
// guest that never stops talking fills no disk. The older one has ".1" after its
// name. The guest writes what it likes into them, so they must be nobody else's
// files: they are never followed through a link. A full disk does not stop the
// console.
type consoleFile struct {
	path string
	file *os.File // nil after a turn that failed: the rest is dropped
	size int64
}

// openConsoleFile opens the file for all output; "" means none.
func openConsoleFile(path string) (*consoleFile, error) {
	if path == "" {
		return nil, nil
	}
	file, err := openOwn(path)
	if err != nil {
		return nil, fmt.Errorf("console file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("console file: %w", err)
	}
	return &consoleFile{path: path, file: file, size: info.Size()}, nil
}

func openOwn(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}

// Write never fails.
func (c *consoleFile) Write(p []byte) (int, error) {
	if c.size > 0 && c.size+int64(len(p)) > consoleFileSize {
		c.turn()
	}
	if c.file != nil {
		n, _ := c.file.Write(p[:min(len(p), consoleFileSize)])
		c.size += int64(n)
	}
	return len(p), nil
}

// turn makes the file the older one, and begins another.
func (c *consoleFile) turn() {
	if c.file == nil {
		return
	}
	c.file.Close()
	c.file, c.size = nil, 0
	if err := os.Rename(c.path, c.path+".1"); err != nil {
		return
	}
	c.file, _ = openOwn(c.path)
}

// Close closes the file, which may be nil.
func (c *consoleFile) Close() {
	if c != nil && c.file != nil {
		c.file.Close()
	}
}

// newConsole owns conn and file from here.
func newConsole(conn net.Conn, tail *process.Tail, file *consoleFile) *console {
	c := &console{conn: conn, tail: tail, file: file, done: make(chan struct{})}
	go c.read()
	return c
}

func (c *console) read() {
	defer close(c.done)
	var out io.Writer = c.tail
	if c.file != nil {
		out = io.MultiWriter(c.tail, c.file)
		defer c.file.Close()
	}
	// The end, or an error, is QEMU's end; who waits for that knows why.
	_, _ = io.Copy(out, c.conn)
}

// Close ends reading. Call it when QEMU is gone, which ends the stream: what it
// wrote last is read first. If it is not gone after all, drainDelay is the end.
func (c *console) Close() {
	_ = c.conn.SetReadDeadline(time.Now().Add(drainDelay))
	<-c.done
	c.conn.Close()
}

// lastLines returns the last n lines that are not blank at the end.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\n\t ")
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// withConsole adds the console's last lines to an error.
func withConsole(err error, tail string) error {
	if err == nil {
		return nil
	}
	if tail = lastLines(tail, consoleLines); tail == "" {
		return fmt.Errorf("%w; the guest's console is empty", err)
	}
	return fmt.Errorf("%w; the guest's console ended with:\n%s", err, tail)
}
