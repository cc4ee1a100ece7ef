// Package fmt is the part of the standard library's fmt that the agent needs,
// for everything that the agent links. Texts are the same to the byte, which is
// tested; what is not offered here is marked as fmt marks the mistakes of a
// format: "%!d(BADTYPE)". go vet finds these before.
//
// It exists for its size. The standard one formats whatever there is, by
// reflection, floating point and all: 280 KB of an agent of 3.5 MB (measured),
// and pages that a guest keeps in memory. Here are the verbs %s %q %d %v %w %t
// %x and %c with width, and the flags '-', '0' and '#', for texts, numbers,
// truth values, bytes, errors, durations, and slices of the plain ones.
//
// Values with a String method have to be asked for it: called through an
// interface, the methods of that name of all types would be kept, of time.Time
// for one, with all of its formats and time zones. A test (test/repository) finds
// operands that are not possible.
package fmt

import "io"

// Sprintf returns the text that format describes.
func Sprintf(format string, a ...any) string {
	var p printer
	p.format(format, a)
	return string(p.out)
}

// Appendf appends the text that format describes to b.
func Appendf(b []byte, format string, a ...any) []byte {
	p := printer{out: b}
	p.format(format, a)
	return p.out
}

// Fprintf writes the text that format describes with one Write.
func Fprintf(w io.Writer, format string, a ...any) (n int, err error) {
	var p printer
	p.format(format, a)
	return w.Write(p.out)
}

// Sprint returns the values as %v writes them, with a space between two that
// are both no strings.
func Sprint(a ...any) string {
	var p printer
	for i, value := range a {
		_, text := value.(string)
		if i > 0 && !text {
			if _, text = a[i-1].(string); !text {
				p.out = append(p.out, ' ')
			}
		}
		p.verb('v', value)
	}
	return string(p.out)
}

// Errorf returns an error with the text that format describes. It wraps the
// errors that are operands of %w, in their order.
func Errorf(format string, a ...any) error {
	p := printer{wraps: true}
	p.format(format, a)
	switch text := string(p.out); len(p.wrapped) {
	case 0:
		return &plain{text}
	case 1:
		return &wrapper{text, p.wrapped[0]}
	default:
		return &wrappers{text, p.wrapped}
	}
}

type plain struct{ text string }

func (e *plain) Error() string { return e.text }

type wrapper struct {
	text string
	err  error
}

func (e *wrapper) Error() string { return e.text }
func (e *wrapper) Unwrap() error { return e.err }

type wrappers struct {
	text string
	errs []error
}

func (e *wrappers) Error() string   { return e.text }
func (e *wrappers) Unwrap() []error { return e.errs }
