// Package wire is the protobuf encoding as generated messages use it: one decoder
// and one encoder for all of them, which go by tables, instead of the same loop
// written out a thousand times. Every pod has a copy of the agent in memory: it
// is 100 KB smaller than with a call for each field, and that was half a megabyte
// smaller than with protobuf-go-lite's own marshal code.
//
// The tables have the places of fields in their structs, so that this package
// reaches them through unsafe pointers. It takes fields, lists and maps for what
// they are, but for two things that are the same in memory: integers may be
// signed, and pointers to messages, whose types it does not know, are of type
// unsafe.Pointer here, in lists and maps too.
//
// It knows what the schema uses: varints, strings, bytes, messages, and lists
// and maps of those. It leaves out groups, which nobody uses, and does not keep
// unknown fields. Strings may be any bytes: paths, arguments and environments
// are, though decoders elsewhere insist on UTF-8.
package wire

import "errors"

// MaxFields is how many fields a message may have in all. It bounds what a small
// message of many empty elements takes when it is decoded, which is a hundred
// times its size. No spec of a container comes near.
const MaxFields = 32 << 10

// Errors of decoding and encoding.
var (
	// ErrMalformed is the error of bytes that are no protobuf message.
	ErrMalformed = errors.New("malformed protobuf")
	// ErrFields is the error of a message with more than MaxFields fields.
	ErrFields = errors.New("more than 32768 fields")
	// ErrBuffer is the error of encoding into a buffer that is too small, as
	// it is when the message changed since it was measured.
	ErrBuffer = errors.New("buffer too small for message")
)

// Wire types: the low three bits of a tag, whose other bits are the number of
// the field.
const (
	Varint  = 0
	Fixed64 = 1
	Bytes   = 2
	Fixed32 = 5
)
