package netlink

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// ErrMalformed is what a message that contradicts itself is.
var ErrMalformed = errors.New("malformed netlink message")

// Message is a message from the kernel.
type Message struct {
	// Type is RTM_NEWLINK and so on.
	Type  uint16
	flags uint16
	seq   uint32
	// Body is what follows the header: the fixed part of the type and
	// attributes.
	Body []byte
}

// Attributes returns the attributes that follow the fixed part of so many bytes.
// A body that is too short for that has none, and the error says so.
func (m Message) Attributes(fixed int) Attributes {
	if len(m.Body) < fixed {
		return Attributes{err: fmt.Errorf("%w: type %d with %d bytes", ErrMalformed, m.Type, len(m.Body))}
	}
	// All fixed parts are multiples of the alignment.
	return Attributes{rest: m.Body[fixed:]}
}

const (
	// align is the alignment of messages and attributes.
	align = 4
	// typeMask is the part of an attribute's type that is no flag.
	typeMask = 0x3fff
)

func aligned(n int) int { return (n + align - 1) &^ (align - 1) }

// split returns the first message in a datagram and what follows it.
func split(b []byte) (m Message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return Message{}, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < unix.SizeofNlMsghdr || length > len(b) {
		return Message{}, nil, fmt.Errorf("%w: length %d of %d bytes", ErrMalformed, length, len(b))
	}
	m = Message{
		Type:  binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		Body:  b[unix.SizeofNlMsghdr:length],
	}
	return m, b[min(aligned(length), len(b)):], nil
}

// Attributes is a list of attributes that are read one after the other:
//
//	for attrs.Next() {
//		switch attrs.Type() {
//		case unix.IFLA_MTU:
//			mtu = attrs.Uint32()
//		}
//	}
//	return attrs.Err()
//
// A value of the wrong size reads as zero and makes Err fail, once for all.
type Attributes struct {
	rest []byte
	kind uint16
	data []byte
	err  error
}

// ParseAttributes returns the attributes in b.
func ParseAttributes(b []byte) Attributes { return Attributes{rest: b} }

// Next goes to the next attribute, and returns false at the end and at what is
// no attribute.
func (a *Attributes) Next() bool {
	if a.err != nil || len(a.rest) == 0 {
		return false
	}
	if len(a.rest) < unix.SizeofNlAttr {
		a.fail("%d bytes for an attribute", len(a.rest))
		return false
	}
	length := int(binary.NativeEndian.Uint16(a.rest))
	if length < unix.SizeofNlAttr || length > len(a.rest) {
		a.fail("attribute of %d bytes in %d", length, len(a.rest))
		return false
	}
	a.kind = binary.NativeEndian.Uint16(a.rest[2:]) & typeMask
	a.data = a.rest[unix.SizeofNlAttr:length]
	a.rest = a.rest[min(aligned(length), len(a.rest)):]
	return true
}

// Err returns what was wrong with the attributes read so far.
func (a *Attributes) Err() error { return a.err }

func (a *Attributes) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// Type is the attribute's type, without the flags.
func (a *Attributes) Type() uint16 { return a.kind }

// Bytes is the attribute's value. It is part of the message.
func (a *Attributes) Bytes() []byte { return a.data }

// Uint32 is the value of an attribute that is a number of the machine's order.
func (a *Attributes) Uint32() uint32 {
	if len(a.data) != 4 {
		a.fail("number of %d bytes in attribute %d", len(a.data), a.kind)
		return 0
	}
	return binary.NativeEndian.Uint32(a.data)
}

// String is the value of an attribute that is a text, with or without the zero
// at its end.
func (a *Attributes) String() string {
	b := a.data
	for i, c := range b {
		if c == 0 {
			b = b[:i]
			break
		}
	}
	return string(b)
}

// Nested returns the attributes within the attribute.
func (a *Attributes) Nested() Attributes { return Attributes{rest: a.data} }

// Request is a message to the kernel that is being put together.
type Request struct {
	kind, flags uint16
	body        []byte
}

// NewRequest returns a request of a type (RTM_…) with flags besides those that
// Do and Dump set, and the fixed part of its type, which it takes over.
//
//go:noinline
func NewRequest(kind, flags uint16, fixed []byte) *Request {
	return &Request{kind: kind, flags: flags, body: fixed}
}

// The methods that append are not inlined, since there are many calls of them and
// the agent is to be small.

// Bytes appends an attribute.
//
//go:noinline
func (r *Request) Bytes(kind uint16, value []byte) {
	at := r.Begin(kind)
	r.body = append(r.body, value...)
	r.End(at)
}

// Octets appends an attribute whose bytes are in a string.
//
//go:noinline
func (r *Request) Octets(kind uint16, value string) {
	at := r.Begin(kind)
	r.body = append(r.body, value...)
	r.End(at)
}

// String appends an attribute that is a text, with a zero at its end.
func (r *Request) String(kind uint16, value string) { r.Octets(kind, value+"\x00") }

// Uint32 appends an attribute that is a number.
//
//go:noinline
func (r *Request) Uint32(kind uint16, value uint32) {
	at := r.Begin(kind)
	r.body = binary.NativeEndian.AppendUint32(r.body, value)
	r.End(at)
}

// Begin begins an attribute of what is appended until End is called with what
// Begin returns.
//
//go:noinline
func (r *Request) Begin(kind uint16) (at int) {
	at = len(r.body)
	r.body = binary.NativeEndian.AppendUint32(r.body, 0)
	binary.NativeEndian.PutUint16(r.body[at+2:], kind)
	return at
}

// BeginStruct is Begin for a structure that starts with its own length, of 16
// bits, such as struct rtnexthop: fixed is its fixed part.
func (r *Request) BeginStruct(fixed []byte) (at int) {
	at = len(r.body)
	r.body = append(r.body, fixed...)
	return at
}

// End ends what Begin or BeginStruct has begun.
//
//go:noinline
func (r *Request) End(at int) {
	binary.NativeEndian.PutUint16(r.body[at:], uint16(len(r.body)-at))
	for len(r.body)%align != 0 {
		r.body = append(r.body, 0)
	}
}

// encode returns the request as it is sent.
func (r *Request) encode(flags uint16, seq uint32) []byte {
	b := make([]byte, 0, unix.SizeofNlMsghdr+len(r.body))
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(r.body)))
	b = binary.NativeEndian.AppendUint16(b, r.kind)
	b = binary.NativeEndian.AppendUint16(b, r.flags|flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // to be filled by the kernel
	return append(b, r.body...)
}

// Body returns what the request has behind its header so far.
func (r *Request) Body() []byte { return r.body }
