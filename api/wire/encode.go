package wire

import "math/bits"

// Encodable is a message that encodes itself; generated messages do.
type Encodable interface {
	// EncodeVT writes the fields, the last one first. A nil message has none.
	EncodeVT(e *Encoder)
}

// Encoder writes a message from its end to its start, so that the length of an
// inner message is known when it is to be written. Without a buffer it measures.
//
// Its methods write a field with the given number. The singular ones leave out
// zero values, as proto3 does, but for Optional's.
type Encoder struct {
	buf  []byte
	size int
	full bool
}

// Size returns the encoded size of a message in bytes.
func Size(m Encodable) int {
	var e Encoder
	m.EncodeVT(&e)
	return e.size
}

// Marshal returns the encoded message.
func Marshal(m Encodable) ([]byte, error) {
	b := make([]byte, Size(m))
	n, err := MarshalTo(b, m)
	return b[len(b)-n:], err
}

// MarshalTo encodes a message into the end of b and returns how many bytes it
// took, or ErrBuffer.
func MarshalTo(b []byte, m Encodable) (int, error) {
	if len(b) == 0 {
		if Size(m) > 0 {
			return 0, ErrBuffer
		}
		return 0, nil
	}
	e := Encoder{buf: b}
	m.EncodeVT(&e)
	if e.full {
		return 0, ErrBuffer
	}
	return e.size, nil
}

// room makes place for n bytes before what is written and returns it; nil when
// measuring or when there is no place.
func (e *Encoder) room(n int) []byte {
	e.size += n
	if e.size > len(e.buf) {
		e.full = true
		return nil
	}
	from := len(e.buf) - e.size
	return e.buf[from : from+n]
}

func (e *Encoder) varint(v uint64) {
	n := (bits.Len64(v|1) + 6) / 7
	b := e.room(n)
	for i := range b {
		b[i] = byte(v) | 0x80
		v >>= 7
	}
	if len(b) > 0 {
		b[n-1] &= 0x7f
	}
}

// Varint writes an integer or enumeration.
func (e *Encoder) Varint(number int, v uint64) {
	if v != 0 {
		e.Optional(number, v)
	}
}

// Optional writes an integer, also a zero.
func (e *Encoder) Optional(number int, v uint64) {
	e.varint(v)
	e.varint(uint64(number)<<3 | Varint)
}

// Bool writes a truth value.
func (e *Encoder) Bool(number int, v bool) {
	if v {
		e.Optional(number, 1)
	}
}

// OptionalBool writes a truth value, also false.
func (e *Encoder) OptionalBool(number int, v bool) {
	if v {
		e.Optional(number, 1)
	} else {
		e.Optional(number, 0)
	}
}

// String writes a string.
func (e *Encoder) String(number int, s string) {
	if s != "" {
		e.element(number, s)
	}
}

// Strings writes a list of strings.
func (e *Encoder) Strings(number int, list []string) {
	for i := len(list) - 1; i >= 0; i-- {
		e.element(number, list[i])
	}
}

func (e *Encoder) element(number int, s string) {
	copy(e.room(len(s)), s)
	e.prefix(number, len(s))
}

// Bytes writes a byte string.
func (e *Encoder) Bytes(number int, b []byte) {
	if len(b) > 0 {
		copy(e.room(len(b)), b)
		e.prefix(number, len(b))
	}
}

// BytesList writes a list of byte strings.
func (e *Encoder) BytesList(number int, list [][]byte) {
	for i := len(list) - 1; i >= 0; i-- {
		copy(e.room(len(list[i])), list[i])
		e.prefix(number, len(list[i]))
	}
}

// Message writes a message.
func (e *Encoder) Message(number int, m Encodable) {
	start := e.size
	m.EncodeVT(e)
	e.prefix(number, e.size-start)
}

// Mark starts an entry of a map, whose value is to be written as field 2.
func (e *Encoder) Mark() int { return e.size }

// Entry writes the rest of the entry that mark started: its key, a string, and
// what makes it an entry.
func (e *Encoder) Entry(number int, key string, mark int) {
	e.element(1, key)
	e.prefix(number, e.size-mark)
}

// prefix writes what stands before a bytes field of n bytes.
func (e *Encoder) prefix(number, n int) {
	e.varint(uint64(n))
	e.varint(uint64(number)<<3 | Bytes)
}

// EncodeVarints writes a list of integers, packed.
func EncodeVarints[T Integer](e *Encoder, number int, list []T) {
	if len(list) == 0 {
		return
	}
	start := e.size
	for i := len(list) - 1; i >= 0; i-- {
		e.varint(uint64(list[i]))
	}
	e.prefix(number, e.size-start)
}
