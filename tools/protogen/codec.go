package main

import (
	"fmt"
	"slices"

	"github.com/aperturerobotics/protobuf-go-lite/compiler/protogen"
	"github.com/aperturerobotics/protobuf-go-lite/generator"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	wirePackage = protogen.GoImportPath("kata/api/wire")
	codecName   = "codec"
)

// codec generates the encoding and decoding of messages on package wire, in
// place of protobuf-go-lite's marshal, size and unmarshal features: the same
// methods in a fifth of the code.
type codec struct {
	*generator.GeneratedFile
}

func init() {
	generator.RegisterFeature(codecName, func(g *generator.GeneratedFile) generator.FeatureGenerator {
		return codec{g}
	})
}

func (c codec) Name() string { return codecName }

func (c codec) GenerateFile(f *protogen.File) bool {
	for _, m := range f.Messages {
		c.message(m)
	}
	return len(f.Messages) > 0
}

func (c codec) message(m *protogen.Message) {
	fields := slices.Clone(m.Fields)
	slices.SortFunc(fields, func(a, b *protogen.Field) int { return int(a.Desc.Number() - b.Desc.Number()) })
	name := m.GoIdent.GoName
	encoder := wirePackage.Ident("Encoder")

	c.P("// SizeVT returns the encoded size in bytes.")
	c.P("func (m *", name, ") SizeVT() int { return ", wirePackage.Ident("Size"), "(m) }")
	c.P()
	c.P("// MarshalVT returns the encoded message.")
	c.P("func (m *", name, ") MarshalVT() ([]byte, error) { return ", wirePackage.Ident("Marshal"), "(m) }")
	c.P()
	c.P("// MarshalToSizedBufferVT encodes into the end of b and returns how many bytes it took.")
	c.P("func (m *", name, ") MarshalToSizedBufferVT(b []byte) (int, error) { return ", wirePackage.Ident("MarshalTo"), "(b, m) }")
	c.P()
	c.P("// EncodeVT writes the fields from the last to the first.")
	c.P("func (m *", name, ") EncodeVT(e *", encoder, ") {")
	if len(fields) > 0 {
		c.P("if m == nil {")
		c.P("return")
		c.P("}")
	}
	for _, f := range slices.Backward(fields) {
		c.encode(f)
	}
	c.P("}")
	c.P()
	c.P("// UnmarshalVT decodes b into the message, in addition to what it has. Unknown fields are dropped.")
	c.P("func (m *", name, ") UnmarshalVT(b []byte) error {")
	c.P("return ", wirePackage.Ident("Decode"), "(b, m.DecodeVT)")
	c.P("}")
	c.P()
	c.P("// DecodeVT decodes the fields that d stands before.")
	c.P("func (m *", name, ") DecodeVT(d *", wirePackage.Ident("Decoder"), ") {")
	c.P("for d.Next() {")
	if len(fields) > 0 {
		c.P("switch d.Tag() {")
		for _, f := range fields {
			c.decode(f)
		}
		c.P("}")
	}
	c.P("}")
	c.P("}")
	c.P()
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

// encode writes the statement that encodes a field.
func (c codec) encode(f *protogen.Field) {
	check(f)
	number, value := f.Desc.Number(), "m."+f.GoName
	switch {
	case f.Desc.IsMap():
		c.P("for k, v := range ", value, " {")
		c.P("mark := e.Mark()")
		switch f.Desc.MapValue().Kind() {
		case protoreflect.StringKind:
			c.P("e.String(2, v)")
		case protoreflect.Uint64Kind:
			c.P("e.Varint(2, v)")
		default:
			c.P("e.Message(2, v)")
		}
		c.P("e.Entry(", number, ", k, mark)")
		c.P("}")
	case f.Desc.Kind() == protoreflect.MessageKind && f.Desc.IsList():
		c.P("for i := len(", value, ")-1; i >= 0; i-- {")
		c.P("e.Message(", number, ", ", value, "[i])")
		c.P("}")
	case f.Desc.Kind() == protoreflect.MessageKind:
		c.P("if ", value, " != nil {")
		c.P("e.Message(", number, ", ", value, ")")
		c.P("}")
	case f.Desc.Kind() == protoreflect.StringKind:
		c.P("e.", plural(f, "String", "Strings"), "(", number, ", ", value, ")")
	case f.Desc.Kind() == protoreflect.BytesKind:
		c.P("e.", plural(f, "Bytes", "BytesList"), "(", number, ", ", value, ")")
	case f.Desc.IsList():
		c.P(wirePackage.Ident("EncodeVarints"), "(e, ", number, ", ", value, ")")
	case f.Desc.HasOptionalKeyword():
		c.P("if ", value, " != nil {")
		if f.Desc.Kind() == protoreflect.BoolKind {
			c.P("e.OptionalBool(", number, ", *", value, ")")
		} else {
			c.P("e.Optional(", number, ", uint64(*", value, "))")
		}
		c.P("}")
	case f.Desc.Kind() == protoreflect.BoolKind:
		c.P("e.Bool(", number, ", ", value, ")")
	default:
		c.P("e.Varint(", number, ", uint64(", value, "))")
	}
}

func plural(f *protogen.Field, one, many string) string {
	if f.Desc.IsList() {
		return many
	}
	return one
}

// decode writes the case that decodes a field.
func (c codec) decode(f *protogen.Field) {
	number, target := f.Desc.Number(), "m."+f.GoName
	varint, bytes := protowire.EncodeTag(number, protowire.VarintType), protowire.EncodeTag(number, protowire.BytesType)
	switch {
	case f.Desc.IsMap():
		c.P("case ", bytes, ":")
		c.decodeEntry(f, target)
	case f.Desc.Kind() == protoreflect.MessageKind && f.Desc.IsList():
		c.P("case ", bytes, ":")
		c.P("v := new(", f.Message.GoIdent, ")")
		c.P("v.DecodeVT(d.Enter())")
		c.P(target, " = append(", target, ", v)")
	case f.Desc.Kind() == protoreflect.MessageKind:
		c.P("case ", bytes, ":")
		c.P("if ", target, " == nil {")
		c.P(target, " = new(", f.Message.GoIdent, ")")
		c.P("}")
		c.P(target, ".DecodeVT(d.Enter())")
	case f.Desc.Kind() == protoreflect.StringKind || f.Desc.Kind() == protoreflect.BytesKind:
		method := "String"
		if f.Desc.Kind() == protoreflect.BytesKind {
			method = "Bytes"
		}
		c.P("case ", bytes, ":")
		if f.Desc.IsList() {
			c.P(target, " = append(", target, ", d.", method, "())")
		} else {
			c.P(target, " = d.", method, "()")
		}
	case f.Desc.IsList():
		c.P("case ", varint, ", ", bytes, ":")
		c.P(target, " = ", wirePackage.Ident("Varints"), "(d, ", target, ")")
	default:
		c.P("case ", varint, ":")
		value := c.scalar(f)
		if f.Desc.HasOptionalKeyword() {
			c.P("v := ", value)
			c.P(target, " = &v")
		} else {
			c.P(target, " = ", value)
		}
	}
}

// decodeEntry writes the decoding of an entry of a map.
func (c codec) decodeEntry(f *protogen.Field, target string) {
	value := f.Message.Fields[1]
	kind := f.Desc.MapValue().Kind()
	c.P("k, v := d.Entry()")
	c.P("if ", target, " == nil {")
	switch kind {
	case protoreflect.StringKind:
		c.P(target, " = make(map[string]string)")
	case protoreflect.Uint64Kind:
		c.P(target, " = make(map[string]uint64)")
	default:
		c.P(target, " = make(map[string]*", value.Message.GoIdent, ")")
	}
	c.P("}")
	switch kind {
	case protoreflect.StringKind:
		c.P(target, "[k] = v.String()")
	case protoreflect.Uint64Kind:
		c.P(target, "[k] = v.Uint64()")
	default:
		c.P("inner := new(", value.Message.GoIdent, ")")
		c.P("inner.DecodeVT(v.Enter())")
		c.P("d.Merge(&v)")
		c.P(target, "[k] = inner")
	}
}

// scalar returns the expression of a varint field's value.
func (c codec) scalar(f *protogen.Field) string {
	switch f.Desc.Kind() {
	case protoreflect.BoolKind:
		return "d.Bool()"
	case protoreflect.EnumKind:
		return c.QualifiedGoIdent(f.Enum.GoIdent) + "(d.Uint64())"
	case protoreflect.Uint64Kind:
		return "d.Uint64()"
	}
	return f.Desc.Kind().String() + "(d.Uint64())"
}
