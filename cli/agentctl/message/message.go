// Package message reaches the fields of the agent's messages by name, for
// people and scripts that write them as text: key=value pairs and JSON in, a
// description of each field out.
//
// The generated messages (kata/api/...pb) carry neither reflection nor JSON, so
// that the agent stays small. This package makes up for that on the host with
// Go's reflection over the generated structs: the struct tags hold the names of
// the .proto files. It serves tools only; nothing on the way of a container
// uses it.
//
// A field is named as in the .proto (container_id), in protobuf's JSON manner
// (containerId), or in any mix of cases where that is unambiguous, since the
// messages of oci.proto are CamelCase and nobody remembers which are.
//
// The package has no state. An [Assigner] lives as long as the request it fills.
package message

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Field describes one field of a message.
type Field struct {
	Name string // as in the .proto
	// Type is what it holds, for people: "uint32", "bytes", "[]Storage",
	// "map[string]string", "IPFamily (v4, v6)".
	Type string
	// Message tells that it is a single message, whose own fields can be named
	// after a dot.
	Message bool

	camel string // name in protobuf's JSON
	index int
}

// Is reports whether name is one of the field's.
func (f Field) Is(name string) bool {
	return strings.EqualFold(f.Name, name) || strings.EqualFold(f.camel, name) && f.camel != ""
}

// Index is the position of the field in the generated struct, as reflection
// counts.
func (f Field) Index() int { return f.index }

// Fields returns the fields of a message, in the order of the .proto. message
// is a generated struct or a pointer to one; of anything else there are none.
func Fields(message any) []Field { return fieldsOf(structType(reflect.TypeOf(message))) }

// FieldsAt returns the fields of the message at a path of message fields, as
// "string_user"; none when there is no message.
func FieldsAt(message any, path string) []Field {
	t := structType(reflect.TypeOf(message))
	for _, name := range strings.Split(path, ".") {
		f, err := fieldNamed(t, name)
		if err != nil || !f.Message {
			return nil
		}
		t = structType(t.Field(f.index).Type)
	}
	return fieldsOf(t)
}

func structType(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func fieldsOf(t reflect.Type) []Field {
	if t.Kind() != reflect.Struct {
		return nil
	}
	var fields []Field
	for i := range t.NumField() {
		name, ok := t.Field(i).Tag.Lookup("pb")
		if !ok {
			continue
		}
		fields = append(fields, Field{
			Name: name, camel: camel(name), index: i,
			Type: typeName(t.Field(i).Type), Message: isMessage(t.Field(i).Type),
		})
	}
	return fields
}

// camel is the name of a field in JSON: an underscore makes the next letter a
// capital (protobuf's ProtoJSON format).
func camel(name string) string {
	var b strings.Builder
	upper := false
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_':
			upper = true
		case upper && c >= 'a' && c <= 'z':
			b.WriteByte(c - 'a' + 'A')
			upper = false
		default:
			b.WriteByte(c)
			upper = false
		}
	}
	return b.String()
}

// fieldNamed finds a field by any of its names.
func fieldNamed(t reflect.Type, name string) (Field, error) {
	fields := fieldsOf(t)
	if i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name }); i >= 0 {
		return fields[i], nil
	}
	if i := slices.IndexFunc(fields, func(f Field) bool { return f.Is(name) }); i >= 0 {
		return fields[i], nil
	}
	if len(fields) == 0 {
		return Field{}, fmt.Errorf("unknown field %q: %s has no fields", name, t.Name())
	}
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	return Field{}, fmt.Errorf("unknown field %q: %s has %s", name, t.Name(), strings.Join(names, ", "))
}

// isBytes reports whether a field holds bytes, which is no list.
func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

func isMessage(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct
}

// isList reports whether a field is repeated.
func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice && !isBytes(t) }

func typeName(t reflect.Type) string {
	switch {
	case isBytes(t):
		return "bytes"
	case t.Kind() == reflect.Slice:
		return "[]" + typeName(t.Elem())
	case t.Kind() == reflect.Map:
		return "map[" + typeName(t.Key()) + "]" + typeName(t.Elem())
	case isMessage(t):
		return t.Elem().Name()
	case t.Kind() == reflect.Pointer:
		return "optional " + typeName(t.Elem())
	case isEnum(t):
		return t.Name()[strings.LastIndexByte(t.Name(), '_')+1:] + " (" + strings.Join(enumNames(t), ", ") + ")"
	}
	return t.Kind().String()
}

func isEnum(t reflect.Type) bool {
	return t.Kind() == reflect.Int32 && t.Implements(reflect.TypeFor[fmt.Stringer]())
}

// maxEnum bounds the search for names of an enum's values: the generated tables
// cannot be reached, only String can.
const maxEnum = 64

// enumNames returns the names of an enum's values, by value.
func enumNames(t reflect.Type) []string {
	var names []string
	for n := range int64(maxEnum) {
		if name := enumName(t, n); name != strconv.FormatInt(n, 10) {
			names = append(names, name)
		}
	}
	return names
}

func enumName(t reflect.Type, n int64) string {
	v := reflect.New(t).Elem()
	v.SetInt(n)
	return v.Interface().(fmt.Stringer).String()
}

func enumValue(t reflect.Type, text string) (int64, error) {
	for n := range int64(maxEnum) {
		if strings.EqualFold(enumName(t, n), text) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%q is none of %s", text, strings.Join(enumNames(t), ", "))
}
