package wire

import "unsafe"

// Table says how messages of a type are encoded. The generator writes one for
// each type, as data that the linker lays out: a field takes six bytes, where
// code that decodes and encodes it takes two hundred. The types of the fields in
// memory are those that the generator gives to fields of their kind; nothing
// else makes tables, since a wrong one makes decoding write where it should not.
//
// The initial values of variables cannot go round in a circle, so that messages
// in messages have an end.
type Table struct {
	Fields []Field // by their numbers, ascending
	Inner  []*Table
	// New returns a new message of the package; New(Which) is one of this type.
	// A message that is in no other has no New.
	New   func(which uint8) unsafe.Pointer
	Which uint8
}

// Field is a field of a message.
type Field struct {
	Number uint16
	Offset uint16 // in the struct
	Kind   Kind
	Inner  uint8 // index in Table.Inner, if the field or its map has messages
}

// Kind is the kind of a field, and with it its type in memory.
type Kind uint8

// Kinds of fields. Integers are those up to KindUint64; KindInt32 includes
// enumerations and KindUint64 is any integer of 64 bits.
const (
	KindBool Kind = iota
	KindInt32
	KindUint32
	KindUint64
	KindString     // string
	KindBytes      // []byte
	KindMessage    // *T
	KindMapString  // map[string]string
	KindMapUint64  // map[string]uint64
	KindMapMessage // map[string]*T

	// Optional is a pointer to an integer, nil if the field is not set.
	Optional Kind = 0x40
	// Repeated is a slice.
	Repeated Kind = 0x80
)

// integer returns the kind of the integers of a field and whether it has any.
func (k Kind) integer() (Kind, bool) {
	k &^= Optional | Repeated
	return k, k <= KindUint64
}

// find returns the index of the field with a number, or -1. It starts at a guess:
// fields usually come in their order.
func (t *Table) find(number uint64, guess int) int {
	for range t.Fields {
		if uint64(t.Fields[guess].Number) == number {
			return guess
		}
		if guess++; guess == len(t.Fields) {
			guess = 0
		}
	}
	return -1
}

// inner returns the table of a field's messages.
func (t *Table) inner(f *Field) *Table { return t.Inner[f.Inner] }

func (t *Table) alloc() unsafe.Pointer { return t.New(t.Which) }

// load returns the integer at p as it is encoded: negative ones of 32 bits as
// those of 64.
func load(kind Kind, p unsafe.Pointer) uint64 {
	switch kind {
	case KindBool:
		if *(*bool)(p) {
			return 1
		}
		return 0
	case KindInt32:
		return uint64(*(*int32)(p))
	case KindUint32:
		return uint64(*(*uint32)(p))
	}
	return *(*uint64)(p)
}

// store sets the integer at p.
func store(kind Kind, p unsafe.Pointer, v uint64) {
	switch kind {
	case KindBool:
		*(*bool)(p) = v != 0
	case KindInt32, KindUint32:
		*(*uint32)(p) = uint32(v)
	default:
		*(*uint64)(p) = v
	}
}

// box returns a new integer.
func box(kind Kind, v uint64) unsafe.Pointer {
	var p unsafe.Pointer
	switch kind {
	case KindBool:
		p = unsafe.Pointer(new(bool))
	case KindInt32, KindUint32:
		p = unsafe.Pointer(new(uint32))
	default:
		p = unsafe.Pointer(new(uint64))
	}
	store(kind, p, v)
	return p
}

// push appends to the slice of integers at p.
func push(kind Kind, p unsafe.Pointer, v uint64) {
	if kind == KindUint64 {
		list := (*[]uint64)(p)
		*list = append(*list, v)
	} else {
		list := (*[]uint32)(p)
		*list = append(*list, uint32(v))
	}
}

// item returns an integer of the slice at p.
func item(kind Kind, p unsafe.Pointer, i int) uint64 {
	switch kind {
	case KindInt32:
		return uint64((*(*[]int32)(p))[i])
	case KindUint32:
		return uint64((*(*[]uint32)(p))[i])
	}
	return (*(*[]uint64)(p))[i]
}

// items returns how many integers the slice at p has.
func items(kind Kind, p unsafe.Pointer) int {
	if kind == KindUint64 {
		return len(*(*[]uint64)(p))
	}
	return len(*(*[]uint32)(p))
}
