package message

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
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

	desc protoreflect.FieldDescriptor
}

// Is reports whether name is one of the field's: that of the .proto or of JSON, in
// any case, since the messages of oci.proto are CamelCase and nobody remembers
// which are.
func (f Field) Is(name string) bool {
	return strings.EqualFold(f.Name, name) || strings.EqualFold(f.desc.JSONName(), name)
}

// Fields returns the fields of a type, in the order of the .proto.
func (t Type) Fields() []Field { return fieldsOf(t.desc) }

// FieldsAt returns the fields of the message at a path of message fields, as
// "string_user"; none when there is no message.
func (t Type) FieldsAt(path string) []Field {
	desc := t.desc
	for _, name := range strings.Split(path, ".") {
		f, err := fieldNamed(desc, name)
		if err != nil || !f.Message {
			return nil
		}
		desc = f.desc.Message()
	}
	return fieldsOf(desc)
}

func fieldsOf(desc protoreflect.MessageDescriptor) []Field {
	all := desc.Fields()
	fields := make([]Field, all.Len())
	for i := range fields {
		f := all.Get(i)
		fields[i] = Field{Name: string(f.Name()), Type: typeName(f), Message: f.Message() != nil && f.Cardinality() != protoreflect.Repeated, desc: f}
	}
	return fields
}

// fieldNamed finds a field by any of its names; the exact one goes first.
func fieldNamed(desc protoreflect.MessageDescriptor, name string) (Field, error) {
	fields := fieldsOf(desc)
	var names []string
	var found *Field
	for i, f := range fields {
		if f.Name == name {
			return f, nil
		}
		if found == nil && f.Is(name) {
			found = &fields[i]
		}
		names = append(names, f.Name)
	}
	switch {
	case found != nil:
		return *found, nil
	case len(fields) == 0:
		return Field{}, fmt.Errorf("unknown field %q: %s has no fields", name, desc.Name())
	}
	return Field{}, fmt.Errorf("unknown field %q: %s has %s", name, desc.Name(), strings.Join(names, ", "))
}

func typeName(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch {
	case f.IsMap():
		return "map[" + typeName(f.MapKey()) + "]" + typeName(f.MapValue())
	case f.Message() != nil:
		name = string(f.Message().Name())
	case f.Enum() != nil:
		name = fmt.Sprintf("%s (%s)", f.Enum().Name(), strings.Join(enumNames(f.Enum()), ", "))
	case f.HasOptionalKeyword():
		name = "optional " + name
	}
	if f.IsList() {
		return "[]" + name
	}
	return name
}

func enumNames(e protoreflect.EnumDescriptor) []string {
	names := make([]string, e.Values().Len())
	for i := range names {
		names[i] = string(e.Values().Get(i).Name())
	}
	return names
}
