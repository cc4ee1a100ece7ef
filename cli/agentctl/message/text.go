package message

import (
	"encoding/hex"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Text returns the message in protobuf's text format, fields of value zero
// included. A message whose only field is text, output of a container say, is that
// text and nothing else.
func (m *Message) Text() (string, error) {
	if fields := m.desc.Fields(); fields.Len() == 1 {
		if text, ok := document(fields.Get(0), m.dynamic.Get(fields.Get(0))); ok {
			return endLine(text), nil
		}
	}
	// The text format leaves out what is not set, and proto3 sets no zero; with
	// fields that tell zero from nothing, a status of 0 is there to be read.
	data, err := proto.Marshal(m.dynamic)
	if err != nil {
		return "", err
	}
	shown := dynamicpb.NewMessage(m.shown)
	if err := proto.Unmarshal(data, shown); err != nil {
		return "", reworded(err)
	}
	setZeros(m.dynamic, shown)
	data, err = prototext.MarshalOptions{Multiline: true}.Marshal(shown)
	if err != nil {
		return "", reworded(err)
	}
	return afterName.ReplaceAllString(endLine(string(data)), "$1 "), nil
}

// afterName is what stands behind a field's name: one space or two, from build to
// build. Values hold no line breaks, so it is the beginning of a line.
var afterName = regexp.MustCompile(`(?m)^( *\w+:) +`)

// setZeros sets in shown every field that m, of the same content, cannot tell from
// one that is zero.
func setZeros(m, shown protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		same := shown.Descriptor().Fields().ByNumber(f.Number())
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				m.Get(f).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
					setZeros(v.Message(), shown.Mutable(same).Map().Get(k).Message())
					return true
				})
			}
		case f.IsList():
			if f.Message() != nil {
				for n := range m.Get(f).List().Len() {
					setZeros(m.Get(f).List().Get(n).Message(), shown.Mutable(same).List().Get(n).Message())
				}
			}
		case f.Message() != nil:
			if m.Has(f) {
				setZeros(m.Get(f).Message(), shown.Mutable(same).Message())
			}
		case !f.HasPresence() && !m.Has(f):
			shown.Set(same, same.Default())
		}
	}
}

// document returns the value of a field that is a text by itself.
func document(f protoreflect.FieldDescriptor, v protoreflect.Value) (string, bool) {
	switch {
	case f.IsList() || f.IsMap():
	case f.Kind() == protoreflect.BytesKind:
		return bytesText(v.Bytes()), true
	case f.Kind() == protoreflect.StringKind && strings.Contains(v.String(), "\n"):
		return v.String(), true
	}
	return "", false
}

func endLine(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// bytesText returns bytes that are text as they are, others as a dump. What
// would move the cursor of a terminal is no text.
func bytesText(data []byte) string {
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' }
	if !utf8.Valid(data) || strings.ContainsFunc(string(data), control) {
		return hex.Dump(data)
	}
	return string(data)
}
