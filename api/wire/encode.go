package wire

import (
	"math/bits"
	"unsafe"
)

// encoder writes a message from its end to its start, so that the length of an
// inner message is known when it is to be written. Without a buffer it measures.
type encoder struct {
	buf  []byte
	size int
	full bool
}

// Size returns the encoded size of the message at m in bytes. A nil message has
// none.
func Size(t *Table, m unsafe.Pointer) int {
	var e encoder
	e.message(t, m)
	return e.size
}

// Marshal returns the encoded message.
func Marshal(t *Table, m unsafe.Pointer) ([]byte, error) {
	b := make([]byte, Size(t, m))
	n, err := MarshalTo(b, t, m)
	return b[len(b)-n:], err
}

// MarshalTo encodes a message into the end of b and returns how many bytes it
// took, or ErrBuffer.
func MarshalTo(b []byte, t *Table, m unsafe.Pointer) (int, error) {
	if len(b) == 0 {
		if Size(t, m) > 0 {
			return 0, ErrBuffer
		}
		return 0, nil
	}
	e := encoder{buf: b}
	e.message(t, m)
	if e.full {
		return 0, ErrBuffer
	}
	return e.size, nil
}

// room makes place for n bytes before what is written and returns it; nil when
// measuring or when there is no place.
func (e *encoder) room(n int) []byte {
	e.size += n
	if e.size > len(e.buf) {
		e.full = true
		return nil
	}
	from := len(e.buf) - e.size
	return e.buf[from : from+n]
}

func (e *encoder) varint(v uint64) {
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

// message writes the fields of the message at p, the last one first.
func (e *encoder) message(t *Table, p unsafe.Pointer) {
	if p == nil {
		return
	}
	for i := len(t.Fields) - 1; i >= 0; i-- {
		f := &t.Fields[i]
		if kind, ok := f.Kind.integer(); ok {
			e.integer(kind, f, unsafe.Add(p, f.Offset))
		} else {
			e.value(t, f, unsafe.Add(p, f.Offset))
		}
	}
}

// value writes the field at p, which is not of integers. It leaves out zero
// values, as proto3 does, but not those in lists.
func (e *encoder) value(t *Table, f *Field, p unsafe.Pointer) {
	switch f.Kind {
	case KindString:
		if s := *(*string)(p); s != "" {
			e.text(f.Number, s)
		}
	case KindString | Repeated:
		list := *(*[]string)(p)
		for i := len(list) - 1; i >= 0; i-- {
			e.text(f.Number, list[i])
		}
	case KindBytes:
		if b := *(*[]byte)(p); len(b) > 0 {
			e.bytes(f.Number, b)
		}
	case KindBytes | Repeated:
		list := *(*[][]byte)(p)
		for i := len(list) - 1; i >= 0; i-- {
			e.bytes(f.Number, list[i])
		}
	case KindMessage:
		if m := *(*unsafe.Pointer)(p); m != nil {
			e.inner(f.Number, t.inner(f), m)
		}
	case KindMessage | Repeated:
		list := *(*[]unsafe.Pointer)(p)
		for i := len(list) - 1; i >= 0; i-- {
			e.inner(f.Number, t.inner(f), list[i])
		}
	default:
		e.entries(t, f, p)
	}
}

// entries writes the map at p. An entry is a message: its key is field 1 and its
// value field 2.
func (e *encoder) entries(t *Table, f *Field, p unsafe.Pointer) {
	switch f.Kind {
	case KindMapString:
		for key, value := range *(*map[string]string)(p) {
			start := e.size
			if value != "" {
				e.text(2, value)
			}
			e.key(f.Number, key, start)
		}
	case KindMapUint64:
		for key, value := range *(*map[string]uint64)(p) {
			start := e.size
			if value != 0 {
				e.number(2, value)
			}
			e.key(f.Number, key, start)
		}
	case KindMapMessage:
		for key, value := range *(*map[string]unsafe.Pointer)(p) {
			start := e.size
			e.inner(2, t.inner(f), value)
			e.key(f.Number, key, start)
		}
	}
}

// key writes the rest of the entry whose value begins at start.
func (e *encoder) key(number uint16, key string, start int) {
	e.text(1, key)
	e.prefix(number, e.size-start)
}

// integer writes the field of integers at p: a list packed, an optional one also
// if zero.
func (e *encoder) integer(kind Kind, f *Field, p unsafe.Pointer) {
	switch {
	case f.Kind&Repeated != 0:
		e.packed(kind, f.Number, p)
	case f.Kind&Optional != 0:
		if v := *(*unsafe.Pointer)(p); v != nil {
			e.number(f.Number, load(kind, v))
		}
	default:
		if v := load(kind, p); v != 0 {
			e.number(f.Number, v)
		}
	}
}

func (e *encoder) packed(kind Kind, number uint16, p unsafe.Pointer) {
	n, start := items(kind, p), e.size
	for i := n - 1; i >= 0; i-- {
		e.varint(item(kind, p, i))
	}
	if n > 0 {
		e.prefix(number, e.size-start)
	}
}

func (e *encoder) number(number uint16, v uint64) {
	e.varint(v)
	e.varint(uint64(number)<<3 | Varint)
}

func (e *encoder) text(number uint16, s string) {
	copy(e.room(len(s)), s)
	e.prefix(number, len(s))
}

func (e *encoder) bytes(number uint16, b []byte) {
	copy(e.room(len(b)), b)
	e.prefix(number, len(b))
}

func (e *encoder) inner(number uint16, t *Table, m unsafe.Pointer) {
	start := e.size
	e.message(t, m)
	e.prefix(number, e.size-start)
}

// prefix writes what stands before a bytes field of n bytes.
func (e *encoder) prefix(number uint16, n int) {
	e.varint(uint64(n))
	e.varint(uint64(number)<<3 | Bytes)
}
