package config

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// source is a file's name and text, kept to say on which line a key stands.
type source struct {
	name, text string
	keys       []toml.Key // all keys of the text, in its order
}

// deepest bounds how many parts of a key are looked at: no key has more, and
// each costs a pass over the text.
const deepest = 8

// line returns the line on which the key's value begins, counted from 1. A
// table that has no header of its own is where its first key is; a key that
// cannot be located is where the nearest table around it is; 0 is nowhere.
//
// The TOML library knows the position of every key and tells it only in the
// errors of values that decode themselves. So the text is decoded once more
// into a type that has this one key, with a value that refuses to be decoded.
// It is done for keys that are complained about only.
func (s source) line(key toml.Key) int {
	for n := min(len(key), deepest); n > 0; n-- {
		if line := s.exactLine(key[:n]); line > 0 {
			return line
		}
		below := slices.IndexFunc(s.keys, func(k toml.Key) bool {
			return len(k) > n && slices.Equal(k[:n], key[:n])
		})
		if below >= 0 {
			if line := s.exactLine(s.keys[below]); line > 0 {
				return line
			}
		}
	}
	return 0
}

func (s source) exactLine(key toml.Key) int {
	if s.text == "" {
		return 0
	}
	t := reflect.TypeFor[marker]()
	for i := len(key) - 1; i >= 0; i-- {
		if strings.ContainsRune(key[i], ',') || key[i] == "-" || key[i] == "" {
			return 0 // no name for a struct tag
		}
		t = reflect.StructOf([]reflect.StructField{{
			Name: "Field",
			Type: t,
			Tag:  reflect.StructTag("toml:" + strconv.Quote(key[i])),
		}})
	}
	// Names match without regard to case and in the order of a map, so a text
	// with both spellings needs some luck; give up after a few attempts.
	for range 16 {
		_, err := toml.Decode(s.text, reflect.New(t).Interface())
		var p toml.ParseError
		if !errors.As(err, &p) {
			return 0
		}
		if p.LastKey == key.String() {
			return p.Position.Line
		}
	}
	return 0
}

// marker is a value that refuses to be decoded.
type marker struct{}

var errMarker = errors.New("found")

// UnmarshalTOML implements toml.Unmarshaler.
func (*marker) UnmarshalTOML(any) error { return errMarker }

// nearest returns the known name that differs least from name, or "" when
// none is close enough to be what was meant.
func nearest(name string, known []string) string {
	best, least := "", 1+len(name)/4
	for _, k := range known {
		if d := distance(name, k, least); d <= least && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance, case ignored, or more than limit.
func distance(a, b string, limit int) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
