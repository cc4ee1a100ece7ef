package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aperturerobotics/protobuf-go-lite/compiler/protogen"
	"github.com/aperturerobotics/protobuf-go-lite/generator"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	wirePackage   = protogen.GoImportPath("kata/api/wire")
	unsafePackage = protogen.GoImportPath("unsafe")
	codecName     = "codec"
)

// codec generates tables by which package wire encodes and decodes messages, in
// place of the code of protobuf-go-lite's marshal, size and unmarshal features,
// and their methods.
type codec struct {
	*generator.GeneratedFile
	inner map[protoreflect.FullName]bool
}

// registerCodec makes the generator know the codec.
func registerCodec(plugin *protogen.Plugin) {
	inner := innerMessages(plugin)
	generator.RegisterFeature(codecName, func(g *generator.GeneratedFile) generator.FeatureGenerator {
		return codec{g, inner}
	})
}

// innerMessages returns the messages that are in others. The value is whether one
// of these is of another package.
func innerMessages(plugin *protogen.Plugin) map[protoreflect.FullName]bool {
	inner := make(map[protoreflect.FullName]bool)
	for _, file := range plugin.Files {
		for _, m := range file.Messages {
			for _, f := range m.Fields {
				if of := messageOf(f); of != nil {
					foreign := of.GoIdent.GoImportPath != m.GoIdent.GoImportPath
					inner[of.Desc.FullName()] = inner[of.Desc.FullName()] || foreign
				}
			}
		}
	}
	return inner
}

// messageOf returns the message that a field, list or map has, or nil.
func messageOf(f *protogen.Field) *protogen.Message {
	if f.Desc.IsMap() {
		return f.Message.Fields[1].Message
	}
	return f.Message
}

func (c codec) Name() string { return codecName }

func (c codec) GenerateFile(f *protogen.File) bool {
	var inner []*protogen.Message
	for _, m := range f.Messages {
		which := -1
		if _, ok := c.inner[m.Desc.FullName()]; ok {
			which = len(inner)
			inner = append(inner, m)
		}
		c.methods(m)
		c.table(m, which)
	}
	if len(inner) > 0 {
		c.alloc(inner)
	}
	return len(f.Messages) > 0
}

// methods writes the methods of a message.
func (c codec) methods(m *protogen.Message) {
	name := m.GoIdent.GoName
	args := []any{"(&", c.tableOf(m), ", ", unsafePackage.Ident("Pointer"), "(m)) }"}
	c.P("// SizeVT returns the encoded size in bytes.")
	c.P(append([]any{"func (m *", name, ") SizeVT() int { return ", wirePackage.Ident("Size")}, args...)...)
	c.P()
	c.P("// MarshalVT returns the encoded message.")
	c.P(append([]any{"func (m *", name, ") MarshalVT() ([]byte, error) { return ", wirePackage.Ident("Marshal")}, args...)...)
	c.P()
	args[0] = "(b, &"
	c.P("// MarshalToSizedBufferVT encodes into the end of b and returns how many bytes it took.")
	c.P(append([]any{"func (m *", name, ") MarshalToSizedBufferVT(b []byte) (int, error) { return ", wirePackage.Ident("MarshalTo")}, args...)...)
	c.P()
	c.P("// UnmarshalVT decodes b into the message, in addition to what it has. Unknown fields are dropped.")
	c.P(append([]any{"func (m *", name, ") UnmarshalVT(b []byte) error { return ", wirePackage.Ident("Unmarshal")}, args...)...)
	c.P()
}

// tableOf returns the name of a message's table, which is exported if other
// packages need it.
func (c codec) tableOf(m *protogen.Message) string {
	name := "wire" + m.GoIdent.GoName
	if c.inner[m.Desc.FullName()] {
		name = "W" + name[1:]
	}
	return c.QualifiedGoIdent(m.GoIdent.GoImportPath.Ident(name))
}

// table writes the table of a message. All of its values are constants or
// addresses, so that no code runs when a program starts.
func (c codec) table(m *protogen.Message, which int) {
	fields := slices.Clone(m.Fields)
	slices.SortFunc(fields, func(a, b *protogen.Field) int { return int(a.Desc.Number() - b.Desc.Number()) })
	table := c.tableOf(m)
	c.P("// ", table, " is the encoding of ", m.GoIdent.GoName, ".")
	c.P("var ", table, " = ", wirePackage.Ident("Table"), "{")
	var inner []string
	if len(fields) > 0 {
		c.P("Fields: []", wirePackage.Ident("Field"), "{")
		for _, f := range fields {
			row := []any{"{Number: ", f.Desc.Number(), ", Offset: uint16(", unsafePackage.Ident("Offsetof"), "(", m.GoIdent, "{}.", f.GoName, ")), Kind: "}
			row = append(row, c.kind(f)...)
			if of := messageOf(f); of != nil {
				at := slices.Index(inner, "&"+c.tableOf(of))
				if at < 0 {
					at = len(inner)
					inner = append(inner, "&"+c.tableOf(of))
				}
				row = append(row, ", Inner: ", at)
			}
			c.P(append(row, "},")...)
		}
		c.P("},")
	}
	if len(inner) > 0 {
		c.P("Inner: []*", wirePackage.Ident("Table"), "{", strings.Join(inner, ", "), "},")
	}
	if which >= 0 {
		c.P("New: newInner,")
		c.P("Which: ", which, ",")
	}
	c.P("}")
	c.P()
}

// alloc writes the function that makes messages for decoders. It is one for all,
// which is smaller than one for each.
func (c codec) alloc(inner []*protogen.Message) {
	c.P("// newInner returns a new message of the given type.")
	c.P("func newInner(which uint8) ", unsafePackage.Ident("Pointer"), " {")
	c.P("switch which {")
	for i, m := range inner {
		if i == len(inner)-1 {
			c.P("default:")
		} else {
			c.P("case ", i, ":")
		}
		c.P("return ", unsafePackage.Ident("Pointer"), "(new(", m.GoIdent, "))")
	}
	c.P("}")
	c.P("}")
	c.P()
}

// kind returns the expression of a field's kind.
func (c codec) kind(f *protogen.Field) []any {
	check(f)
	kind := []any{wirePackage.Ident(kindName(f.Desc))}
	switch {
	case f.Desc.IsMap():
		kind = []any{wirePackage.Ident(strings.Replace(kindName(f.Desc.MapValue()), "Kind", "KindMap", 1))}
	case f.Desc.IsList():
		kind = append(kind, " | ", wirePackage.Ident("Repeated"))
	case f.Desc.HasOptionalKeyword() && f.Message == nil:
		kind = append(kind, " | ", wirePackage.Ident("Optional"))
	}
	return kind
}

func kindName(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return "KindBool"
	case protoreflect.Int32Kind, protoreflect.EnumKind:
		return "KindInt32"
	case protoreflect.Uint32Kind:
		return "KindUint32"
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return "KindUint64"
	case protoreflect.StringKind:
		return "KindString"
	case protoreflect.BytesKind:
		return "KindBytes"
	}
	return "KindMessage"
}

// check panics for what this generator does not know; the schema does not use
// it.
func check(f *protogen.Field) {
	known := true
	switch f.Desc.Kind() {
	case protoreflect.BoolKind, protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		known = !f.Desc.IsList() || f.Desc.Kind() != protoreflect.BoolKind
	case protoreflect.EnumKind:
		known = !f.Desc.IsList() && !f.Desc.HasOptionalKeyword()
	case protoreflect.StringKind, protoreflect.BytesKind:
		known = !f.Desc.HasOptionalKeyword()
	case protoreflect.MessageKind:
		if f.Desc.IsMap() {
			value := f.Desc.MapValue().Kind()
			known = f.Desc.MapKey().Kind() == protoreflect.StringKind &&
				(value == protoreflect.StringKind || value == protoreflect.Uint64Kind || value == protoreflect.MessageKind)
		}
	default:
		known = false
	}
	if f.Oneof != nil && !f.Oneof.Desc.IsSynthetic() {
		known = false
	}
	if !known {
		panic(fmt.Sprintf("%s: kind of field that the generator does not know", f.Desc.FullName()))
	}
}
