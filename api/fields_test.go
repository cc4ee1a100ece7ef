package api_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
)

// TestFields sets each field of each message on its own, as the reference
// implementation encodes it: it has to come to the field of its name, whole, and
// nothing to any other, and to become the same bytes again.
func TestFields(t *testing.T) {
	schema := loadSchema(t)
	random := rand.New(rand.NewPCG(3, 4))
	types := messageTypes()
	if len(types) < 100 {
		t.Fatalf("%d messages", len(types))
	}
	for _, message := range types {
		fields := describe(t, schema, message).Fields()
		for i := range fields.Len() {
			for range 20 {
				theirs := dynamicpb.NewMessage(fields.Get(i).ContainingMessage())
				fillField(random, theirs, fields.Get(i))
				ours := reflect.New(message)
				decodeSame(t, theirs, fields.Get(i), ours)
			}
		}
	}
}

// TestManyEntries decodes maps and lists that grow many times, in a program that
// collects garbage meanwhile: what they hold must stay.
func TestManyEntries(t *testing.T) {
	schema := loadSchema(t)
	for _, message := range messageTypes() {
		fields := describe(t, schema, message).Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !f.IsMap() && !f.IsList() {
				continue
			}
			theirs := dynamicpb.NewMessage(f.ContainingMessage())
			for n := range 300 {
				addElement(theirs, f, n)
			}
			decodeSame(t, theirs, f, reflect.New(message))
		}
	}
}

// decodeSame decodes the reference's encoding of theirs, which has the field f
// only, into ours and compares the two, and what ours encodes to.
func decodeSame(t *testing.T, theirs *dynamicpb.Message, f protoreflect.FieldDescriptor, ours reflect.Value) {
	t.Helper()
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	m := ours.Interface().(ttrpc.Message)
	if err := m.UnmarshalVT(wire); err != nil {
		t.Fatalf("%s: %v", f.FullName(), err)
	}
	if len(wire) > 4096 {
		runtime.GC()
	}
	if !sameMessage(theirs, ours) {
		t.Fatalf("%s: %.1000v became %.1000v", f.FullName(), theirs, ours)
	}
	again := dynamicpb.NewMessage(theirs.Descriptor())
	encoded := encode(t, m)
	if err := proto.Unmarshal(encoded, again); err != nil || !proto.Equal(theirs, again) {
		t.Fatalf("%s: %.1000v became %.1000v, %v", f.FullName(), theirs, again, err)
	}
	// Maps have no order, and the reference writes empty values in them.
	if f.Message() == nil && !bytes.Equal(encoded, wire) {
		t.Fatalf("%s: %.1000x became %.1000x", f.FullName(), wire, encoded)
	}
}

// fillField sets a field to something that is not zero, but for optional ones,
// which may be.
func fillField(r *rand.Rand, m *dynamicpb.Message, f protoreflect.FieldDescriptor) {
	for !m.Has(f) {
		fill(r, m, 4, make(map[string]bool))
		m.Range(func(other protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if other != f {
				m.Clear(other)
			}
			return true
		})
	}
}

// addElement adds the n-th element to a list or map.
func addElement(m *dynamicpb.Message, f protoreflect.FieldDescriptor, n int) {
	r := rand.New(rand.NewPCG(5, uint64(n)))
	value := f
	if f.IsMap() {
		value = f.MapValue()
	}
	var element protoreflect.Value
	if value.Message() != nil {
		inner := dynamicpb.NewMessage(value.Message())
		fill(r, inner, 0, make(map[string]bool))
		element = protoreflect.ValueOfMessage(inner)
	} else {
		element = scalar(r, value)
	}
	if f.IsMap() {
		m.Mutable(f).Map().Set(protoreflect.ValueOfString(string(rune('0'+n))).MapKey(), element)
	} else {
		m.Mutable(f).List().Append(element)
	}
}

// messageTypes returns the types of all messages that methods have, and of those
// in them.
func messageTypes() []reflect.Type {
	var types []reflect.Type
	seen := make(map[reflect.Type]bool)
	var add func(reflect.Type)
	add = func(message reflect.Type) {
		for message.Kind() == reflect.Pointer || message.Kind() == reflect.Slice || message.Kind() == reflect.Map {
			message = message.Elem()
		}
		if message.Kind() != reflect.Struct || seen[message] {
			return
		}
		seen[message] = true
		types = append(types, message)
		for i := range message.NumField() {
			add(message.Field(i).Type)
		}
	}
	for _, registrar := range []any{agentpb.AgentServiceRegistrar{}, healthpb.HealthRegistrar{}} {
		methods := reflect.TypeOf(registrar)
		for i := range methods.NumMethod() {
			handler := methods.Method(i).Type.In(1)
			add(handler.In(1))
			add(handler.Out(0))
		}
	}
	return types
}

// sameMessage answers whether ours, a pointer to a message, has the fields of
// theirs, found by their names.
func sameMessage(theirs protoreflect.Message, ours reflect.Value) bool {
	if ours.IsNil() {
		return false
	}
	message := ours.Type().Elem()
	fields := theirs.Descriptor().Fields()
	if fields.Len() != message.NumField() {
		return false
	}
	for i := range message.NumField() {
		f := fields.ByName(protoreflect.Name(message.Field(i).Tag.Get("pb")))
		if f == nil || !sameField(theirs, f, ours.Elem().Field(i)) {
			return false
		}
	}
	return true
}

func sameField(m protoreflect.Message, f protoreflect.FieldDescriptor, ours reflect.Value) bool {
	if !m.Has(f) {
		return ours.IsZero()
	}
	switch value := m.Get(f); {
	case f.IsMap():
		same := ours.Len() == value.Map().Len()
		for key, element := range value.Map().Range {
			mine := ours.MapIndex(reflect.ValueOf(key.String()))
			same = same && mine.IsValid() && sameValue(f.MapValue(), element, mine)
		}
		return same
	case f.IsList():
		same := ours.Len() == value.List().Len()
		for i := 0; same && i < ours.Len(); i++ {
			same = sameValue(f, value.List().Get(i), ours.Index(i))
		}
		return same
	case f.HasOptionalKeyword() && f.Message() == nil:
		return !ours.IsNil() && sameValue(f, value, ours.Elem())
	default:
		return sameValue(f, value, ours)
	}
}

func sameValue(f protoreflect.FieldDescriptor, theirs protoreflect.Value, ours reflect.Value) bool {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return sameMessage(theirs.Message(), ours)
	case protoreflect.StringKind:
		return theirs.String() == ours.String()
	case protoreflect.BytesKind:
		return bytes.Equal(theirs.Bytes(), ours.Bytes())
	case protoreflect.BoolKind:
		return theirs.Bool() == ours.Bool()
	case protoreflect.EnumKind:
		return int64(theirs.Enum()) == ours.Int()
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return theirs.Int() == ours.Int()
	default:
		return theirs.Uint() == ours.Uint()
	}
}
