// Package message holds the agent's messages as people and scripts write and read
// them: JSON and key=value pairs in, JSON and text out, a description of each field.
//
// The generated messages (kata/api/agentpb and others) carry neither reflection nor
// JSON, so that the agent stays small. Here they are protobuf's dynamic messages of
// the compiled schema (kata/api/schema), with protobuf's own JSON (protojson) and
// text format (prototext). What the two kinds of messages share is the encoding on
// the wire; [Edit] changes one as the other.
//
// It serves tools only; nothing on the way of a container uses it. [New] loads the
// schema; a [Message] is for one goroutine.
package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"kata/api/ttrpc"
)

// Type is what a message can hold.
type Type struct {
	desc protoreflect.MessageDescriptor
	// shown is the same, with fields that tell zero from nothing; see Text.
	shown protoreflect.MessageDescriptor
}

// New returns an empty message.
func (t Type) New() *Message { return &Message{Type: t, dynamic: dynamicpb.NewMessage(t.desc)} }

// Name is the name of the messages in the .proto file, without its package.
func (t Type) Name() string { return string(t.desc.Name()) }

// Message is a request or an answer. It implements ttrpc.Message.
type Message struct {
	Type
	dynamic *dynamicpb.Message
}

// SizeVT implements ttrpc.Message.
func (m *Message) SizeVT() int { return proto.Size(m.dynamic) }

// MarshalToSizedBufferVT implements ttrpc.Message.
func (m *Message) MarshalToSizedBufferVT(buf []byte) (int, error) {
	data, err := proto.Marshal(m.dynamic)
	if err != nil {
		return 0, err
	}
	if len(data) > len(buf) {
		return 0, errors.New("the message does not fit")
	}
	return copy(buf[len(buf)-len(data):], data), nil
}

// UnmarshalVT implements ttrpc.Message.
func (m *Message) UnmarshalVT(data []byte) error { return reworded(proto.Unmarshal(data, m.dynamic)) }

// DecodeJSON replaces the message by what a JSON object says, in protobuf's mapping
// (ProtoJSON): fields by the names of the .proto (container_id) or their JSON names
// (containerId), bytes as base64, enums as names or numbers.
func (m *Message) DecodeJSON(data []byte) error {
	return reworded(protojson.Unmarshal(data, m.dynamic))
}

// JSON returns the message as one line of JSON, in protobuf's mapping with the names
// of the .proto: 64-bit numbers are strings, bytes are base64. Fields of value zero
// are there; messages and optional values that are not set are not.
func (m *Message) JSON() ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m.dynamic)
	if err != nil {
		return nil, reworded(err)
	}
	var line bytes.Buffer
	err = json.Compact(&line, data) // protojson varies its white space from build to build
	return line.Bytes(), err
}

// String returns the value of a field of text, and whether there is such a field.
func (m *Message) String(field string) (string, bool) {
	f := m.desc.Fields().ByName(protoreflect.Name(field))
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return "", false
	}
	return m.dynamic.Get(f).String(), true
}

// Edit changes a message as the generated type, whose name it must have.
func Edit[T any, P interface {
	*T
	ttrpc.Message
}](m *Message, change func(P) error) error {
	data, err := proto.Marshal(m.dynamic)
	if err != nil {
		return err
	}
	typed := P(new(T))
	if err := typed.UnmarshalVT(data); err != nil {
		return err
	}
	if err := change(typed); err != nil {
		return err
	}
	data = make([]byte, typed.SizeVT())
	if _, err := typed.MarshalToSizedBufferVT(data); err != nil {
		return err
	}
	return m.UnmarshalVT(data)
}

// reworded makes an error of protobuf's say the same in every build: it begins with
// "proto:" and a space that is now one character, now another.
func reworded(err error) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return fmt.Errorf("%s", strings.TrimPrefix(text, "proto: "))
}
