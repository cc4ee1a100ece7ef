package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"kata/host/untrusted"
)

// KeyError is one thing that is wrong in a configuration file. It is printed
// on one line, "FILE:LINE: KEY = VALUE: REASON", without the parts that are
// not known.
type KeyError struct {
	File   string // as it was named; "" for the built-in defaults
	Line   int    // counted from 1; 0 when unknown
	Key    string // dotted, with its tables: hypervisor.qemu.kernel
	Value  string // as TOML; "" when the error is not about a value
	Reason string
	Err    error // what Reason stands for, when there is such an error

	at toml.Key // Key in its parts
}

func (e *KeyError) Error() string {
	var b strings.Builder
	switch {
	case e.File == "":
		b.WriteString("built-in configuration: ")
	case e.Line == 0:
		b.WriteString(e.File + ": ")
	default:
		fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	}
	if e.Key != "" {
		b.WriteString(e.Key)
		if e.Value != "" {
			b.WriteString(" = " + e.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return untrusted.Line(oneLine(b.String()), untrusted.MaxLine)
}

// oneLine escapes control characters, so that one can see which they are.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Unwrap returns the underlying error, or nil.
func (e *KeyError) Unwrap() error { return e.Err }

// Errors is everything that is wrong in a file, in the order of the file; it
// is never empty.
type Errors []*KeyError

// Error prints the first error and how many more there are, on one line.
func (e Errors) Error() string {
	switch len(e) {
	case 1:
		return e[0].Error()
	default:
		return fmt.Sprintf("%v (and %d more)", e[0], len(e)-1)
	}
}

// Unwrap lets errors.As and errors.Is look at each of them.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}

// Warning is a key that was accepted and does not take effect.
type Warning struct {
	File   string
	Line   int
	Key    string
	Value  string
	Reason string

	at toml.Key
}

func (w Warning) String() string {
	return (&KeyError{File: w.File, Line: w.Line, Key: w.Key, Value: w.Value, Reason: w.Reason}).Error()
}
