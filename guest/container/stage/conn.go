package stage

import (
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/lib/fmt"
)

// Kinds of message from a stage to the runtime. A message is one byte with its
// kind, four with the length of what follows, little endian, and that.
const (
	Console    = 'C' // with one descriptor: the master end of the terminal
	Hooks      = 'H' // it is time for the hooks that the runtime runs; the stage waits for Go
	Ready      = 'R' // everything is done; the stage waits for Go
	Failed     = 'E' // with a text; the stage ends
	ExecFailed = 'X' // the same, when it is the command that cannot be executed
	Refused    = 'I' // the same, when the container or the kernel shows that the request makes no sense
)

// Go is what a stage waits for, one byte. Before the first the runtime sends the
// job; see [Job.Marshal].
const Go = 'G'

const (
	headerSize = 5
	maxConfig  = 16 << 20
	// MaxMessage bounds the text of a message.
	MaxMessage = 16 << 10
)

// Header returns the start of a message.
func Header(kind byte, length int) []byte {
	return binary.LittleEndian.AppendUint32([]byte{kind}, uint32(length))
}

// ParseHeader is the opposite of Header; ok is false if b is not one.
func ParseHeader(b []byte) (kind byte, length int, ok bool) {
	if len(b) != headerSize {
		return 0, 0, false
	}
	n := binary.LittleEndian.Uint32(b[1:])
	return b[0], int(n), n <= MaxMessage
}

// conn is the stage's end of the socket.
type conn int

// commandError is an error about the command itself.
type commandError struct{ err error }

func (e commandError) Error() string { return e.err.Error() }

// awaitGo returns when the runtime says so.
func (c conn) awaitGo() error {
	var b [1]byte
	if err := c.read(b[:]); err != nil {
		return err
	}
	if b[0] != Go {
		return errors.New("unexpected message from the runtime")
	}
	return nil
}

func (c conn) read(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(int(c), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b = b[n:]
		}
	}
	return nil
}

func (c conn) send(kind byte, text []byte, fds ...int) error {
	if len(text) > MaxMessage {
		text = text[:MaxMessage]
	}
	message := append(Header(kind, len(text)), text...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for len(message) > 0 {
		n, err := unix.SendmsgN(int(c), message, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("answer the runtime: %w", err)
		}
		message, rights = message[n:], nil
	}
	return nil
}

// refusedError is an error about what was asked for.
type refusedError struct{ error }

func (c conn) fail(err error) {
	kind := byte(Failed)
	var command commandError
	var refused refusedError
	switch {
	case errors.As(err, &command):
		kind = ExecFailed
	case errors.As(err, &refused), errors.Is(err, fault.Invalid):
		kind = Refused
	}
	_ = c.send(kind, []byte(err.Error())) // the runtime is gone if this fails
}
