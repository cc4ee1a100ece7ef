package message

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
)

// Assigner fills a request from key=value pairs.
//
// A key is a field or a path of fields (string_user.uid); after a map's name
// comes the key in the map (OCI.Annotations.some.name). A list takes a whole
// JSON list, or one element a pair: the first pair of a list replaces what was
// there before, the next ones append.
type Assigner struct {
	message  reflect.Value // the struct
	readFile func(path string) ([]byte, error)
	seen     map[string]bool // lists that this Assigner has begun
}

// NewAssigner returns the Assigner of a message, a pointer to a generated
// struct. readFile is asked for the contents of a field of bytes whose value is
// file:///path.
func NewAssigner(message any, readFile func(path string) ([]byte, error)) *Assigner {
	return &Assigner{message: reflect.ValueOf(message).Elem(), readFile: readFile, seen: map[string]bool{}}
}

// Set sets the field that key names. The error names key and what is wrong.
func (a *Assigner) Set(key, value string) error {
	if err := a.set(a.message, strings.Split(key, "."), key, value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (a *Assigner) set(v reflect.Value, path []string, key, value string) error {
	f, err := fieldNamed(v.Type(), path[0])
	if err != nil {
		return err
	}
	target := v.Field(f.index)
	rest := path[1:]
	switch {
	case len(rest) == 0:
		return a.assign(target, key, value)
	case f.Message:
		if target.IsNil() {
			target.Set(reflect.New(target.Type().Elem()))
		}
		return a.set(target.Elem(), rest, key, value)
	case target.Kind() == reflect.Map:
		return a.setEntry(target, strings.Join(rest, "."), value)
	}
	return fmt.Errorf("%s is %s, which has no field %s", f.Name, f.Type, rest[0])
}

func (a *Assigner) setEntry(m reflect.Value, name, value string) error {
	key, element := reflect.New(m.Type().Key()).Elem(), reflect.New(m.Type().Elem()).Elem()
	if err := setText(key, name); err != nil {
		return err
	}
	if err := a.assign(element, "", value); err != nil {
		return err
	}
	if m.IsNil() {
		m.Set(reflect.MakeMap(m.Type()))
	}
	m.SetMapIndex(key, element)
	return nil
}

// assign sets v from the text of a value.
func (a *Assigner) assign(v reflect.Value, key, value string) error {
	t := v.Type()
	switch {
	case isBytes(t):
		data, err := a.bytes(value)
		if err == nil {
			v.SetBytes(data)
		}
		return err
	case isMessage(t), t.Kind() == reflect.Map, isList(t) && strings.HasPrefix(value, "["):
		parsed, err := parseJSON([]byte(value))
		if err != nil {
			return fmt.Errorf("%s is written as JSON: %w", typeName(t), err)
		}
		a.seen[key] = true
		return setJSON(v, parsed)
	case isList(t):
		element := reflect.New(t.Elem()).Elem()
		if err := a.assign(element, "", value); err != nil {
			return err
		}
		if !a.seen[key] {
			v.SetZero()
		}
		a.seen[key] = true
		v.Set(reflect.Append(v, element))
		return nil
	}
	return setText(v, value)
}

// bytes returns the bytes that a value means: a file's, decoded base64, or the
// text itself.
func (a *Assigner) bytes(value string) ([]byte, error) {
	if encoded, ok := strings.CutPrefix(value, "base64://"); ok {
		return fromBase64(encoded)
	}
	if !strings.HasPrefix(value, "file://") {
		return []byte(value), nil
	}
	path, err := FilePath(value)
	if err != nil {
		return nil, err
	}
	return a.readFile(path)
}

// FilePath returns the path that a file:// URL names.
func FilePath(value string) (string, error) {
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return "", err
	case u.Scheme != "file":
		return "", fmt.Errorf("%q is not a file:// URL", value)
	case u.Host != "" || u.Path == "":
		return "", fmt.Errorf("%q names no file: a file:// URL has three slashes before the path", value)
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("a file:// URL with ? or # needs them escaped, %3F and %23")
	}
	return u.Path, nil
}
