package hooks

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// specVersion is what a container without a version gets.
const specVersion = "1.3.0"

// State is what a hook is told of its container (the specification's "State").
type State struct {
	Version string
	ID      string
	Status  string // creating, created, running or stopped
	// PID is that of the container's first process, as the hook sees it; 0 when
	// there is none.
	PID         int
	Bundle      string
	Annotations map[string]string
}

// json returns the state as a hook reads it.
func (s State) json() []byte {
	version := s.Version
	if version == "" {
		version = specVersion
	}
	b := appendPair([]byte("{"), "ociVersion", version)
	b = appendPair(append(b, ','), "id", s.ID)
	b = appendPair(append(b, ','), "status", s.Status)
	if s.PID != 0 {
		b = strconv.AppendInt(append(b, `,"pid":`...), int64(s.PID), 10)
	}
	b = appendPair(append(b, ','), "bundle", s.Bundle)
	for key, value := range s.Annotations {
		if b[len(b)-1] == '"' {
			b = append(b, `,"annotations":{`...)
		}
		b = append(appendPair(b, key, value), ',')
	}
	if len(s.Annotations) > 0 {
		b[len(b)-1] = '}'
	}
	return append(b, '}')
}

func appendPair(b []byte, key, value string) []byte {
	return appendString(append(appendString(b, key), ':'), value)
}

// appendString appends s as a JSON string (RFC 8259, section 7).
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range []byte(strings.ToValidUTF8(s, "\uFFFD")) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// file returns a descriptor from which the state can be read. Unlike a pipe it
// waits for nobody.
func (s State) file() (int, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for b := s.json(); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		b = b[n:]
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
