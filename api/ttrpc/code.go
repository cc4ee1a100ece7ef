package ttrpc

import (
	"context"
	"errors"
	"io/fs"

	"kata/lib/fmt"
)

// Code says in which way a call failed. The numbers are gRPC's.
type Code uint32

// The codes of gRPC.
const (
	OK Code = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

// String returns the name of the code, or "Code(n)" for a number without name.
func (c Code) String() string {
	names := [...]string{
		"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
		"PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
		"Internal", "Unavailable", "DataLoss", "Unauthenticated",
	}
	if int64(c) < int64(len(names)) {
		return names[c]
	}
	return fmt.Sprintf("Code(%d)", uint32(c))
}

// Error is a failure with a code: what a handler returns to choose the code of
// the answer, and what a client gets when the server answered with one.
type Error struct {
	Code Code
	// Message is for people; it is the whole text of the error.
	Message string
}

// Error returns the message, or the name of the code where there is none.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return e.Message
}

// Is makes a remote time-out or cancellation look like a local one to
// errors.Is.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == DeadlineExceeded
	case context.Canceled:
		return e.Code == Canceled
	}
	return false
}

// Errorf returns an *Error with a formatted message. A cause given by %w is in
// the text only.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Errorf(format, args...).Error()}
}

// ErrClosed is what calls fail with when the connection is, or gets, closed.
// The reason may be wrapped beside it.
var ErrClosed = errors.New("ttrpc: connection closed")

// CodeOf returns the code of an error: that of the first *Error in its chain;
// else OK for nil, Unavailable for ErrClosed, the matching code for context's
// and io/fs's errors, and Unknown for the rest.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for _, known := range [...]struct {
		err  error
		code Code
	}{
		{context.Canceled, Canceled},
		{context.DeadlineExceeded, DeadlineExceeded},
		{ErrClosed, Unavailable},
		{fs.ErrNotExist, NotFound},
		{fs.ErrExist, AlreadyExists},
		{fs.ErrPermission, PermissionDenied},
		{fs.ErrInvalid, InvalidArgument},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return Unknown
}
