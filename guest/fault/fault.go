// Package fault is the one kind of error that callers of the agent can tell apart:
// what sort of failure it is, which field of the request it is about, and why.
// Everything else that fails is an error of the kernel, which says so. Package
// agent maps kinds to codes of the API, in one table.
package fault

import (
	"errors"
	"strconv"
)

// Kind is a sort of failure. It is an error itself, for errors.Is, and may be
// wrapped like one.
type Kind string

const (
	// Invalid: what is asked for makes no sense.
	Invalid Kind = "invalid"
	// NotFound: there is nothing of that name.
	NotFound Kind = "not found"
	// Exists: the name, or the place, is taken.
	Exists Kind = "already exists"
	// State: it cannot be done in the present state.
	State Kind = "wrong state"
	// Limit: there are as many as there may be.
	Limit Kind = "limit reached"
	// Unsupported: this guest cannot do that.
	Unsupported Kind = "not supported"
	// End: a stream has been read to its end.
	End Kind = "end of the stream"
	// Gone: it is being destroyed, or has been.
	Gone Kind = "gone"
)

// Error implements error.
func (k Kind) Error() string { return string(k) }

// Error is a failure of a kind.
type Error struct {
	// Kind is empty for a failure that is nobody's fault, or whose kind its Cause has.
	Kind Kind
	// Field is the path of the field in the request, Value what it has, as the
	// text shows it; both may be empty.
	Field, Value string
	Cause        error
}

// Error is the field, the value and the cause.
func (e *Error) Error() string {
	text := e.Field
	if e.Value != "" {
		text += " " + e.Value + " "
	} else if text != "" {
		text += ": "
	}
	if e.Cause != nil {
		text += e.Cause.Error()
	}
	return text
}

// Unwrap makes the error match its kind and its cause.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != "" {
		errs = append(errs, e.Kind)
	}
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	return errs
}

// In says in which part of the request the field of an error is: "routes" and an
// error about "[2].dest" make "routes[2].dest".
func In(part string, err error) error {
	e, ok := err.(*Error)
	if !ok || e.Field == "" && e.Value == "" {
		return &Error{Field: part, Cause: err}
	}
	inside := *e
	if inside.Field != "" && inside.Field[0] != '[' {
		part += "."
	}
	inside.Field = part + inside.Field
	return &inside
}

// New returns an error of a kind, with a text of its own.
func New(k Kind, text string) error { return &Error{Kind: k, Cause: errors.New(text)} }

// maxShown is how much of a text an error quotes.
const maxShown = 256

// Quote is a text as an error shows it: in quotes, and cut where it is long.
func Quote(text string) string {
	if len(text) <= maxShown {
		return strconv.Quote(text)
	}
	return strconv.Quote(text[:maxShown]) + "… (" + strconv.Itoa(len(text)) + " bytes)"
}

// Field returns the error for a field that makes no sense. The value is what the
// text shows.
//
// Not inlined, for the size of those many who call it.
//
//go:noinline
func Field(field, value, reason string) error {
	return &Error{Kind: Invalid, Field: field, Value: value, Cause: errors.New(reason)}
}
