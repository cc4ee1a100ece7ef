package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxMessage is the largest message accepted, in bytes. The largest that QEMU
// sends here (query-qmp-schema) is about 250 KB.
const MaxMessage = 4 << 20

// ErrMessageTooLarge ends a connection whose peer sends a longer line.
var ErrMessageTooLarge = fmt.Errorf("qmp message is longer than %d bytes", MaxMessage)

// Error is QEMU's refusal of a command.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // GenericError, CommandNotFound, DeviceNotFound, ...
	Desc    string `json:"desc"`  // for people
}

func (e *Error) Error() string {
	if e.Class == "GenericError" {
		return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc)
	}
	return fmt.Sprintf("qmp %s: %s: %s", e.Command, e.Class, e.Desc)
}

// Event is something that happened in QEMU.
type Event struct {
	Name string          // SHUTDOWN, STOP, DEVICE_DELETED, ...
	Data json.RawMessage // the event's members; may be empty
	Time time.Time       // QEMU's clock; zero when QEMU gave none
}

// Version is QEMU's, from its greeting.
type Version struct{ Major, Minor, Micro int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// message is any line that QEMU sends; which members are there says what it is.
type message struct {
	Greeting *struct {
		Version struct {
			QEMU struct{ Major, Minor, Micro int }
		}
	} `json:"QMP"`

	ID     json.RawMessage `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`

	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

func (m *message) event() Event {
	event := Event{Name: m.Event, Data: m.Data}
	const unknown = -1 // QEMU's word for "the clock could not be read"
	if t := m.Timestamp; t.Seconds != unknown && t.Seconds != 0 {
		event.Time = time.Unix(t.Seconds, t.Microseconds*int64(time.Microsecond))
	}
	return event
}

// decoder reads messages, one a line, of bounded length.
type decoder struct{ lines *bufio.Scanner }

func newDecoder(r io.Reader) *decoder {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), MaxMessage)
	return &decoder{lines}
}

// next returns the next message; io.EOF at the end of the stream.
func (d *decoder) next() (*message, error) {
	for d.lines.Scan() {
		line := d.lines.Bytes()
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("decode qmp message: %w", err)
		}
		return &m, nil
	}
	err := d.lines.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, ErrMessageTooLarge
	case err != nil:
		return nil, fmt.Errorf("read qmp message: %w", err)
	}
	return nil, io.EOF
}

// request is a command on the wire.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}
