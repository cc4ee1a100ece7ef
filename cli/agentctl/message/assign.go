package message

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Assigner fills a message from key=value pairs: each becomes a JSON object with
// that one field, which protobuf decodes and merges.
//
// A key is a field or a path of fields (string_user.uid); after a map's name
// comes the key in the map (OCI.Annotations.some.name). A list takes a whole
// JSON list, or one element a pair: the first pair of a list replaces what was
// there before, the next ones append.
type Assigner struct {
	message  *Message
	readFile func(path string) ([]byte, error)
	seen     map[string]bool // lists that this Assigner has begun
}

// NewAssigner returns the Assigner of a message. readFile is asked for the contents
// of a field of bytes whose value is file:///path.
func NewAssigner(message *Message, readFile func(path string) ([]byte, error)) *Assigner {
	return &Assigner{message: message, readFile: readFile, seen: map[string]bool{}}
}

// Set sets the field that key names. The error names key and what is wrong.
func (a *Assigner) Set(key, value string) error {
	if err := a.set(a.message.dynamic, key, value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (a *Assigner) set(m protoreflect.Message, key, value string) error {
	for path := key; ; {
		name, rest, nested := strings.Cut(path, ".")
		f, err := fieldNamed(m.Descriptor(), name)
		switch {
		case err != nil:
			return err
		case !nested:
			return a.assign(m, f.desc, key, value)
		case f.Message:
			m, path = m.Mutable(f.desc).Message(), rest
			continue
		case !f.desc.IsMap():
			inner, _, _ := strings.Cut(rest, ".")
			return fmt.Errorf("%s is %s, which has no field %s", f.Name, f.Type, inner)
		}
		element, err := a.json(f.desc.MapValue(), value)
		if err != nil {
			return err
		}
		return merge(m, f.desc, "{"+quote(rest)+":"+element+"}")
	}
}

// assign sets a field to the text of a value.
func (a *Assigner) assign(m protoreflect.Message, f protoreflect.FieldDescriptor, key, value string) error {
	if f.IsMap() || f.IsList() && strings.HasPrefix(value, "[") {
		if !json.Valid([]byte(value)) {
			return fmt.Errorf("%s is written as JSON, which %q is not", typeName(f), value)
		}
		a.seen[key] = true
		m.Clear(f)
		return merge(m, f, value)
	}
	text, err := a.json(f, value)
	if err != nil {
		return err
	}
	if f.IsList() {
		if !a.seen[key] {
			m.Clear(f)
		}
		a.seen[key] = true
		return merge(m, f, "["+text+"]")
	}
	if f.Message() == nil { // merging a zero would change nothing
		m.Clear(f)
	}
	return merge(m, f, text)
}

// merge sets a field to what JSON says, on top of what is there.
func merge(m protoreflect.Message, f protoreflect.FieldDescriptor, text string) error {
	part := m.New()
	if err := protojson.Unmarshal([]byte("{"+quote(string(f.Name()))+":"+text+"}"), part.Interface()); err != nil {
		return reworded(err)
	}
	proto.Merge(m.Interface(), part.Interface())
	return nil
}

// json returns one value of a field, or an element of a list, as JSON. Numbers may
// have a base: 0x1f, 0644.
func (a *Assigner) json(f protoreflect.FieldDescriptor, value string) (string, error) {
	switch kind := f.Kind(); kind {
	case protoreflect.MessageKind:
		if !json.Valid([]byte(value)) {
			return "", fmt.Errorf("%s is written as JSON, which %q is not", f.Message().Name(), value)
		}
		return value, nil
	case protoreflect.StringKind:
		return quote(value), nil
	case protoreflect.BytesKind:
		data, err := a.bytes(value)
		return quote(base64.StdEncoding.EncodeToString(data)), err
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return "", fmt.Errorf("%q is neither true nor false", value)
		}
		return strconv.FormatBool(b), nil
	case protoreflect.EnumKind:
		return enum(f.Enum(), value)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(value, 0, bits(kind))
		return strconv.FormatUint(n, 10), number(kind, value, err)
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		n, err := strconv.ParseInt(value, 0, bits(kind))
		return strconv.FormatInt(n, 10), number(kind, value, err)
	default:
		return quote(value), nil // protojson takes numbers in quotes
	}
}

func bits(kind protoreflect.Kind) int {
	if kind == protoreflect.Uint32Kind || kind == protoreflect.Int32Kind {
		return 32
	}
	return 64
}

func number(kind protoreflect.Kind, text string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%s is out of the range of %s", text, kind)
	}
	return fmt.Errorf("%q is not a number (%s)", text, kind)
}

func enum(e protoreflect.EnumDescriptor, text string) (string, error) {
	if n, err := strconv.ParseInt(text, 0, 32); err == nil {
		return strconv.FormatInt(n, 10), nil
	}
	names := enumNames(e)
	for _, name := range names {
		if strings.EqualFold(name, text) {
			return quote(name), nil
		}
	}
	return "", fmt.Errorf("%q is none of %s", text, strings.Join(names, ", "))
}

func quote(text string) string {
	encoded, _ := json.Marshal(text) // of a string it cannot fail
	return string(encoded)
}

// bytes returns the bytes that a value means: a file's, decoded base64, or the
// text itself.
func (a *Assigner) bytes(value string) ([]byte, error) {
	if encoded, ok := strings.CutPrefix(value, "base64://"); ok {
		data, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fmt.Errorf("%q is not base64", encoded)
		}
		return data, nil
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
