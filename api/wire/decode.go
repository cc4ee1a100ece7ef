package wire

// Decoder goes through the fields of an encoded message. Values are those of
// the field at which Next stopped.
type Decoder struct {
	rest   []byte
	tag    uint64
	number uint64 // of a varint field
	bytes  []byte // of a bytes field
	err    error
	left   int // fields that may still come

	// outer is what comes after the messages that enclose this one.
	outer [maxDepth][]byte
	depth int
}

// maxDepth is more than how deep messages are nested in the schema.
const maxDepth = 8

// NewDecoder returns a decoder of a message that has at most MaxFields fields,
// those of messages in it included.
func NewDecoder(b []byte) Decoder { return Decoder{rest: b, left: MaxFields} }

// Decode decodes b by a message's DecodeVT.
func Decode(b []byte, message func(*Decoder)) error {
	d := NewDecoder(b)
	message(&d)
	return d.err
}

// Next goes to the next field and answers whether there is one. At the end of a
// message in a message the decoder is back in the outer one.
func (d *Decoder) Next() bool {
	if d.err != nil {
		return false
	}
	if len(d.rest) == 0 {
		if d.depth > 0 {
			d.depth--
			d.rest = d.outer[d.depth]
		}
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

// Bool returns the value of a varint field.
func (d *Decoder) Bool() bool { return d.number != 0 }

// String returns a copy of the value of a bytes field.
func (d *Decoder) String() string { return string(d.bytes) }

// Bytes returns a copy of the value of a bytes field; it is never nil.
func (d *Decoder) Bytes() []byte { return append([]byte{}, d.bytes...) }

// View returns the value of a bytes field, as part of the encoded message.
func (d *Decoder) View() []byte { return d.bytes }

// Enter goes into the value of a bytes field that is a message, which the caller
// is to decode to its end.
func (d *Decoder) Enter() *Decoder {
	if d.depth == maxDepth {
		d.err = ErrMalformed
		return d
	}
	d.outer[d.depth] = d.rest
	d.depth++
	d.rest = d.bytes
	return d
}

// Merge goes on where value, which Entry returned, has come to.
func (d *Decoder) Merge(value *Decoder) {
	d.left = value.left
	if value.err != nil {
		d.err = value.err
	}
}

// Entry splits a bytes field that is an entry of a map with string keys. Value
// stands at the entry's value, or has zero values if it has none.
func (d *Decoder) Entry() (key string, value Decoder) {
	for entry := (Decoder{rest: d.bytes, left: d.left}); ; {
		if !entry.Next() {
			d.Merge(&entry)
			value.left = d.left
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

// Varints appends the values of a list of varints, which is one bytes field if
// packed and many varint fields if not.
func Varints[T Integer](d *Decoder, list []T) []T {
	if d.tag&7 == Varint {
		return append(list, T(d.number))
	}
	for b := d.bytes; len(b) > 0; {
		n, rest, ok := uvarint(b)
		if !ok {
			d.err = ErrMalformed
			break
		}
		if d.left--; d.left < 0 {
			d.err = ErrFields
			break
		}
		list, b = append(list, T(n)), rest
	}
	return list
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
