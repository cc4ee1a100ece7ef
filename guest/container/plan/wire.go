package plan

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Arguments of a stage: the program's name, Argument, a kind and the container's
// ID.
const (
	Argument = "init"
	Create   = "create"
	Exec     = "exec"
)

// Descriptors that a stage is started with, beside the standard ones.
const (
	SocketFD = 3 // the conversation with the runtime
	InitFD   = 4 // for Exec: pidfd of the container's init
)

// OtherNamespaces are those that an exec joins, beside that of the mounts and
// what it is born in.
const OtherNamespaces = unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// The runtime's first message is a plan: four bytes with its length, little endian,
// and that; then the trees, at most MaxDescriptors with one byte each. After that it
// sends Go, one byte, whenever the stage waits for it.
const (
	Go = 'G'
	// MaxDescriptors are fewer than the kernel's SCM_MAX_FD.
	MaxDescriptors = 200
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

const (
	headerSize = 5
	// MaxMessage bounds the text of a stage's message.
	MaxMessage = 16 << 10
)

// Header returns the start of a stage's message.
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

// Message returns the runtime's first message.
func (p *Plan) Message() ([]byte, error) {
	b, err := p.Marshal()
	if err != nil {
		return nil, err
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...), nil
}

// ParseLength returns how long the plan is whose message begins with b; ok is false
// if it is none.
func ParseLength(b [4]byte) (length int, ok bool) {
	n := binary.LittleEndian.Uint32(b[:])
	return int(n), n <= maxPlan
}
