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
	drainDelay   = 500 * time.Millisecond
)

// console reads the guest's serial port to its end.
type console struct {
	conn net.Conn
	tail *process.Tail
	file *os.File // all output; nil unless asked for
	done chan struct{}
}

// openConsoleFile opens the file for all output; "" means none. The guest
// writes what it likes into it, so it must be nobody else's file: it is never
// followed through a link.
func openConsoleFile(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("console file: %w", err)
	}
	return file, nil
}

// newConsole owns conn and file from here.
func newConsole(conn net.Conn, tail *process.Tail, file *os.File) *console {
	c := &console{conn: conn, tail: tail, file: file, done: make(chan struct{})}
	go c.read()
	return c
}

func (c *console) read() {
	defer close(c.done)
	var out io.Writer = c.tail
	if c.file != nil {
		out = io.MultiWriter(c.tail, dropErrors{c.file})
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

// dropErrors keeps a full disk from stopping the console.
type dropErrors struct{ io.Writer }

func (w dropErrors) Write(p []byte) (int, error) {
	_, _ = w.Writer.Write(p)
	return len(p), nil
}

// printable makes a guest's output safe to show: no control sequences.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < ' ' || r == 0x7f || r == 0xfffd || (r >= 0x80 && r < 0xa0):
			return -1
		}
		return r
	}, text)
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
