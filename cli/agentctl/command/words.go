package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonPrefix marks an argument that is a JSON document.
const jsonPrefix = "json://"

// scanner takes words off a command line. Words are separated by blanks; a
// backslash, '…' and "…" quote as in a shell, with \n, \t, \r and \xHH inside
// double quotes; JSON after json:// or after the = of an argument reaches to its
// own end, blanks and quotes included. A # at the beginning of a word begins a
// comment.
type scanner struct {
	line string
	pos  int
}

// skip moves to the next word and reports whether there is one.
func (s *scanner) skip() bool {
	for s.pos < len(s.line) && isBlank(s.line[s.pos]) {
		s.pos++
	}
	return s.pos < len(s.line) && s.line[s.pos] != '#'
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// rest returns what has not been read.
func (s *scanner) rest() string { return strings.TrimSpace(s.line[s.pos:]) }

// next returns the next word; ok is false at the end of the line.
func (s *scanner) next() (word string, ok bool, err error) {
	if !s.skip() {
		return "", false, nil
	}
	var w wordBuilder
	for s.pos < len(s.line) {
		switch c := s.line[s.pos]; {
		case isBlank(c):
			return w.String(), true, nil
		case (c == '{' || c == '[') && w.takesJSON():
			text, err := s.json()
			if err != nil {
				return "", false, err
			}
			w.WriteString(text)
			w.ended = true
		case w.ended:
			return "", false, fmt.Errorf("%q follows JSON without a blank", s.line[s.pos:])
		case c == '\'':
			text, err := s.single()
			if err != nil {
				return "", false, err
			}
			w.quote(text)
		case c == '"':
			text, err := s.double()
			if err != nil {
				return "", false, err
			}
			w.quote(text)
		case c == '\\' && s.pos+1 < len(s.line):
			_, size := utf8.DecodeRuneInString(s.line[s.pos+1:])
			w.quote(s.line[s.pos+1 : s.pos+1+size])
			s.pos += 1 + size
		default:
			w.WriteByte(c)
			s.pos++
		}
	}
	return w.String(), true, nil
}

// words returns all words that are left.
func (s *scanner) words() ([]string, error) {
	var all []string
	for {
		word, ok, err := s.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return all, nil
		}
		all = append(all, word)
	}
}

// wordBuilder is a word in the making.
type wordBuilder struct {
	strings.Builder
	quoted bool // some of it was quoted
	ended  bool // by JSON
}

func (w *wordBuilder) quote(text string) {
	w.quoted = true
	w.WriteString(text)
}

// takesJSON reports whether JSON may begin here.
func (w *wordBuilder) takesJSON() bool {
	if w.quoted || w.ended {
		return false
	}
	text := w.String()
	return text == jsonPrefix || strings.IndexByte(text, '=') == len(text)-1 && len(text) > 1
}

// json returns the JSON value at the current position.
func (s *scanner) json() (string, error) {
	d := json.NewDecoder(strings.NewReader(s.line[s.pos:]))
	var value json.RawMessage
	if err := d.Decode(&value); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it does not end")
		}
		return "", fmt.Errorf("JSON %q: %w", s.line[s.pos:], err)
	}
	s.pos += int(d.InputOffset())
	return string(value), nil
}

func (s *scanner) single() (string, error) {
	end := strings.IndexByte(s.line[s.pos+1:], '\'')
	if end < 0 {
		return "", fmt.Errorf("quote %s does not end", s.line[s.pos:])
	}
	text := s.line[s.pos+1 : s.pos+1+end]
	s.pos += end + 2
	return text, nil
}

func (s *scanner) double() (string, error) {
	var b strings.Builder
	start := s.pos
	for s.pos++; s.pos < len(s.line); s.pos++ {
		switch c := s.line[s.pos]; c {
		case '"':
			s.pos++
			return b.String(), nil
		case '\\':
			if err := s.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("quote %s does not end", s.line[start:])
}

// escape reads what follows a backslash in double quotes and leaves the position
// on its last byte.
func (s *scanner) escape(b *strings.Builder) error {
	s.pos++
	if s.pos == len(s.line) {
		return nil // the missing end of the quote is the error
	}
	switch c := s.line[s.pos]; c {
	case 'n':
		b.WriteByte('\n')
	case 't':
		b.WriteByte('\t')
	case 'r':
		b.WriteByte('\r')
	case 'x':
		const digits = 2
		hex := s.line[s.pos+1 : min(len(s.line), s.pos+1+digits)]
		value, err := strconv.ParseUint(hex, 16, 8)
		if err != nil || len(hex) != digits {
			return fmt.Errorf(`\x%s is not a byte: two hexadecimal digits are`, hex)
		}
		b.WriteByte(byte(value))
		s.pos += digits
	default:
		b.WriteByte(c)
	}
	return nil
}
