// Package wire is what the init of the test VM says to the host, over one
// virtio-serial port: frames of a type, a length and a payload. It goes one
// way, from the guest to the host, and ends with the exit status.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Port is the name of the virtio-serial port.
const Port = "vmtest"

// Job is what the guest is asked to do. It stands as JSON in the initrd.
type Job struct {
	Dir  string   // working directory
	Args []string // program and its arguments
	Env  []string
}

// JobFile is the path of the Job in the initrd.
const JobFile = "/job.json"

// Type is the type of a frame.
type Type byte

// Types of frames.
const (
	Output Type = 'O' // bytes the program wrote to stdout or stderr
	Exit   Type = 'X' // its exit status, or 128 + signal: 4 bytes, little-endian
	Fault  Type = 'F' // why the guest could not run it: text
)

// maxPayload bounds what a reader allocates.
const maxPayload = 1 << 16

// Write writes a frame, or several when payload is long.
func Write(w io.Writer, t Type, payload []byte) error {
	for {
		n := min(len(payload), maxPayload)
		frame := make([]byte, 5, 5+n)
		frame[0] = byte(t)
		binary.LittleEndian.PutUint32(frame[1:], uint32(n))
		if _, err := w.Write(append(frame, payload[:n]...)); err != nil {
			return err
		}
		if payload = payload[n:]; len(payload) == 0 {
			return nil
		}
	}
}

// WriteExit writes the last frame.
func WriteExit(w io.Writer, status int) error {
	return Write(w, Exit, binary.LittleEndian.AppendUint32(nil, uint32(status)))
}

// ErrTruncated says that the stream ended before an exit status.
var ErrTruncated = errors.New("the VM ended without an exit status")

// Read copies output to out until the exit status arrives, and returns it.
func Read(r io.Reader, out io.Writer) (status int, err error) {
	var head [5]byte
	buf := make([]byte, maxPayload)
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, ErrTruncated
		}
		n := binary.LittleEndian.Uint32(head[1:])
		if n > maxPayload {
			return 0, fmt.Errorf("frame of %d bytes", n)
		}
		payload := buf[:n]
		if _, err := io.ReadFull(r, payload); err != nil {
			return 0, ErrTruncated
		}
		switch Type(head[0]) {
		case Output:
			if _, err := out.Write(payload); err != nil {
				return 0, err
			}
		case Exit:
			if n != 4 {
				return 0, fmt.Errorf("exit frame of %d bytes", n)
			}
			return int(binary.LittleEndian.Uint32(payload)), nil
		case Fault:
			return 0, fmt.Errorf("in the guest: %s", payload)
		default:
			return 0, fmt.Errorf("frame of unknown type %q", head[0])
		}
	}
}
