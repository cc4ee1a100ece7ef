package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is the TOML type a key takes.
type kind string

const (
	boolean kind = "a boolean"
	integer kind = "an integer"
	number  kind = "a number" // integer or float
	text    kind = "a string"
	list    kind = "a list of strings"
	tables  kind = "a list of tables" // upstream's shared_mounts; never looked into
)

// key describes one key of a table: its name, its type and what becomes of
// its value.
type key struct {
	name string
	kind kind
	// apply stores the value, whose Go type follows from kind (bool, int64,
	// float64, string, []string). A returned notice is accepted with a
	// warning, any other error refuses the file.
	apply func(d *decoder, value any) error
}

// notice is an error that does not refuse the file.
type notice string

func (n notice) Error() string { return string(n) }

// Keys that take effect.

func setText(name string, field func(*Config) *string, checks ...func(string) error) key {
	return key{name, text, func(d *decoder, value any) error {
		s := value.(string)
		if s == "" {
			return nil // upstream's files write "" for "not set"
		}
		for _, check := range checks {
			if err := check(s); err != nil {
				return err
			}
		}
		*field(d.config) = s
		return nil
	}}
}

func setPath(name string, field func(*Config) *string) key {
	return setText(name, field, func(s string) error {
		if !filepath.IsAbs(s) {
			return errors.New("must be an absolute path")
		}
		if strings.ContainsRune(s, 0) {
			return errors.New("must not contain a NUL byte")
		}
		return nil
	})
}

func setList(name string, field func(*Config) *[]string, checks ...func(string) error) key {
	return key{name, list, func(d *decoder, value any) error {
		for _, s := range value.([]string) {
			for _, check := range checks {
				if err := check(s); err != nil {
					return fmt.Errorf("element %s: %w", strconv.Quote(s), err)
				}
			}
		}
		*field(d.config) = value.([]string)
		return nil
	}}
}

func setFlag(name string, field func(*Config) *bool) key {
	return key{name, boolean, func(d *decoder, value any) error {
		*field(d.config) = value.(bool)
		return nil
	}}
}

// setSeconds takes 1 second to 1 day; 0 leaves the default, as upstream does.
func setSeconds(name string, field func(*Config) *time.Duration) key {
	const most = 24 * 60 * 60
	return key{name, integer, func(d *decoder, value any) error {
		n := value.(int64)
		if n < 0 || n > most {
			return fmt.Errorf("must be 1 to %d seconds, or 0 for the default", most)
		}
		if n > 0 {
			*field(d.config) = time.Duration(n) * time.Second
		}
		return nil
	}}
}

// oneOf accepts the given words.
func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return errors.New("must be one of " + strings.Join(words, ", "))
	}
}

// Keys that do not take effect.

// pending is a key that is known and not implemented yet: a value other than
// its zero value and the inert ones, which ask for what happens anyway, is
// accepted with a warning.
func pending(name string, k kind, inert ...any) key {
	return key{name, k, func(_ *decoder, value any) error {
		if asksNothing(value, inert) {
			return nil
		}
		return errIgnored
	}}
}

// errIgnored is the warning about a key that is known and has no effect.
const errIgnored = notice("not implemented yet, has no effect")

// pendingList is pending, for a list with a check for its elements.
func pendingList(name string, check func(string) error) key {
	return key{name, list, func(_ *decoder, value any) error {
		for _, s := range value.([]string) {
			if err := check(s); err != nil {
				return fmt.Errorf("element %s: %w", strconv.Quote(s), err)
			}
		}
		if len(value.([]string)) == 0 {
			return nil
		}
		return errIgnored
	}}
}

// moot is a key about something that this implementation does not have or
// always does, so that no value of it asks for anything.
func moot(name string, k kind) key {
	return key{name, k, func(*decoder, any) error { return nil }}
}

// refused is a key that is known and not implemented, and that must not be
// ignored: why completes "not implemented yet, and ignoring it would …".
func refused(name string, k kind, why string, inert ...any) key {
	return key{name, k, func(_ *decoder, value any) error {
		if asksNothing(value, inert) {
			return nil
		}
		return errors.New("not implemented yet, and ignoring it would " + why)
	}}
}

func asksNothing(value any, inert []any) bool {
	if v := reflect.ValueOf(value); v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
		return true
	}
	return slices.ContainsFunc(inert, func(i any) bool { return reflect.DeepEqual(i, value) })
}

// convert turns a value of the TOML library into the Go type of the kind.
func (k kind) convert(value any) (any, bool) {
	switch k {
	case boolean:
		v, ok := value.(bool)
		return v, ok
	case integer:
		v, ok := value.(int64)
		return v, ok
	case number:
		if v, ok := value.(int64); ok {
			return float64(v), true
		}
		v, ok := value.(float64)
		return v, ok
	case text:
		v, ok := value.(string)
		return v, ok
	case list:
		return convertList(value)
	case tables:
		_, isTables := value.([]map[string]any)
		empty, isList := value.([]any)
		return value, isTables || isList && len(empty) == 0
	default:
		return nil, false
	}
}

func convertList(value any) (any, bool) {
	elements, ok := value.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(elements))
	for i, e := range elements {
		if out[i], ok = e.(string); !ok {
			return nil, false
		}
	}
	return out, true
}
