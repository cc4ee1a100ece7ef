package wire

import "unsafe"

// Decoder goes through the fields of an encoded message. Values are those of
// the field at which Next stopped.
type Decoder struct {
	rest   []byte
	tag    uint64
	number uint64 // of a varint field
	bytes  []byte // of a bytes field
	err    error
	left   int // fields that may still come
}

// NewDecoder returns a decoder of a message that has at most MaxFields fields,
// those of messages in it included.
func NewDecoder(b []byte) Decoder { return Decoder{rest: b, left: MaxFields} }

// Unmarshal decodes b into the message at m, in addition to what it has. It drops
// fields that the table does not know, and those of other wire types.
func Unmarshal(b []byte, t *Table, m unsafe.Pointer) error {
	d := NewDecoder(b)
	d.message(t, m)
	return d.err
}

// Next goes to the next field and answers whether there is one.
func (d *Decoder) Next() bool {
	if d.err != nil || len(d.rest) == 0 {
		return false
	}
	if d.left--; d.left < 0 {
		d.err = ErrFields
		return false
	}
	ok := d.next()
	if !ok {
		d.err = ErrMalformed
	}
	return ok
}

func (d *Decoder) next() (ok bool) {
	if d.tag, d.rest, ok = uvarint(d.rest); !ok || d.tag>>3 == 0 || d.tag>>3 >= 1<<29 {
		return false
	}
	d.number, d.bytes = 0, nil
	switch d.tag & 7 {
	case Varint:
		d.number, d.rest, ok = uvarint(d.rest)
		return ok
	case Bytes:
		var n uint64
		if n, d.rest, ok = uvarint(d.rest); !ok {
			return false
		}
		return d.cut(n)
	case Fixed64:
		return d.cut(8)
	case Fixed32:
		return d.cut(4)
	}
	return false
}

// cut takes the next n bytes as the field's.
func (d *Decoder) cut(n uint64) bool {
	if n > uint64(len(d.rest)) {
		return false
	}
	d.bytes, d.rest = d.rest[:n:n], d.rest[n:]
	return true
}

// Err returns what ended the decoding before the end of the message.
func (d *Decoder) Err() error { return d.err }

// Tag returns the tag of the field: number<<3 | wire type.
func (d *Decoder) Tag() uint64 { return d.tag }

// Uint64 returns the value of a varint field.
func (d *Decoder) Uint64() uint64 { return d.number }

// String returns a copy of the value of a bytes field.
func (d *Decoder) String() string { return string(d.bytes) }

// copied returns a copy of the value of a bytes field; it is never nil.
func (d *Decoder) copied() []byte { return append([]byte{}, d.bytes...) }

// View returns the value of a bytes field, as part of the encoded message.
func (d *Decoder) View() []byte { return d.bytes }

// Entry splits a bytes field that is an entry of a map with string keys. Value
// stands at the entry's value, or has zero values if it has none.
func (d *Decoder) Entry() (key string, value Decoder) {
	for entry := (Decoder{rest: d.bytes, left: d.left}); ; {
		if !entry.Next() {
			d.left = entry.left
			if entry.err != nil {
				d.err = entry.err
			}
			return key, value
		}
		switch entry.tag >> 3 {
		case 1:
			key = entry.String()
		case 2:
			value = Decoder{number: entry.number, bytes: entry.bytes}
		}
	}
}

// message decodes fields into the message at p.
func (d *Decoder) message(t *Table, p unsafe.Pointer) {
	for at := 0; d.Next(); {
		found := t.find(d.tag>>3, at)
		if found < 0 {
			continue
		}
		at = found
		f := &t.Fields[at]
		if kind, ok := f.Kind.integer(); ok {
			d.integer(kind, f.Kind, unsafe.Add(p, f.Offset))
		} else if d.tag&7 == Bytes {
			d.value(t, f, unsafe.Add(p, f.Offset))
		}
	}
}

// inner decodes the value of a bytes field into the message at p.
func (d *Decoder) inner(t *Table, p unsafe.Pointer) {
	rest := d.rest
	d.rest = d.bytes
	d.message(t, p)
	d.rest = rest
}

// value decodes a bytes field into the field at p.
func (d *Decoder) value(t *Table, f *Field, p unsafe.Pointer) {
	switch f.Kind {
	case KindString:
		*(*string)(p) = d.String()
	case KindString | Repeated:
		list := (*[]string)(p)
		*list = append(*list, d.String())
	case KindBytes:
		*(*[]byte)(p) = d.copied()
	case KindBytes | Repeated:
		list := (*[][]byte)(p)
		*list = append(*list, d.copied())
	case KindMessage:
		m := (*unsafe.Pointer)(p)
		if *m == nil {
			*m = t.inner(f).alloc()
		}
		d.inner(t.inner(f), *m)
	case KindMessage | Repeated:
		m := t.inner(f).alloc()
		d.inner(t.inner(f), m)
		list := (*[]unsafe.Pointer)(p)
		*list = append(*list, m)
	default:
		d.entry(t, f, p)
	}
}

// entry decodes an entry of the map at p.
func (d *Decoder) entry(t *Table, f *Field, p unsafe.Pointer) {
	key, value := d.Entry()
	switch f.Kind {
	case KindMapString:
		put((*map[string]string)(p), key, value.String())
	case KindMapUint64:
		put((*map[string]uint64)(p), key, value.number)
	case KindMapMessage:
		m := t.inner(f).alloc()
		d.bytes = value.bytes
		d.inner(t.inner(f), m)
		// The map is one of pointers, whatever they point to.
		put((*map[string]unsafe.Pointer)(p), key, m)
	}
}

func put[T any](m *map[string]T, key string, value T) {
	if *m == nil {
		*m = make(map[string]T)
	}
	(*m)[key] = value
}

// integer decodes a field of integers into the field at p. A list of them is one
// bytes field if packed and many varint fields if not.
func (d *Decoder) integer(kind, of Kind, p unsafe.Pointer) {
	switch repeated := of&Repeated != 0; {
	case repeated && d.tag&7 == Varint:
		push(kind, p, d.number)
	case repeated && d.tag&7 == Bytes:
		d.packed(kind, p)
	case d.tag&7 != Varint:
	case of&Optional != 0:
		*(*unsafe.Pointer)(p) = box(kind, d.number)
	default:
		store(kind, p, d.number)
	}
}

func (d *Decoder) packed(kind Kind, p unsafe.Pointer) {
	for b := d.bytes; len(b) > 0; {
		n, rest, ok := uvarint(b)
		if !ok {
			d.err = ErrMalformed
			return
		}
		if d.left--; d.left < 0 {
			d.err = ErrFields
			return
		}
		push(kind, p, n)
		b = rest
	}
}

// uvarint cuts a varint of at most ten bytes and 64 bits off b.
func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	for i, c := range b {
		if i == 9 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, b[i+1:], true
		}
	}
	return 0, nil, false
}
