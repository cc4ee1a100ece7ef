package api_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/schema"
	"kata/api/ttrpc"
)

// TestEncoding compares our messages with the reference implementation, which
// knows them by the compiled schema only: random messages that it encodes come
// out of our decoder and encoder as they were. All messages of all methods are
// tried, and with them every message there is.
func TestEncoding(t *testing.T) {
	schema := loadSchema(t)
	random := rand.New(rand.NewPCG(1, 2))
	tried := make(map[string]bool)
	for _, registrar := range []any{agentpb.AgentServiceRegistrar{}, healthpb.HealthRegistrar{}} {
		methods := reflect.TypeOf(registrar)
		for i := range methods.NumMethod() {
			handler := methods.Method(i).Type.In(1)
			for _, message := range []reflect.Type{handler.In(1), handler.Out(0)} {
				desc := describe(t, schema, message.Elem())
				for range 200 {
					theirs := dynamicpb.NewMessage(desc)
					fill(random, theirs, 6, tried)
					compare(t, theirs, reflect.New(message.Elem()).Interface().(ttrpc.Message))
				}
			}
		}
	}
	schema.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			if name := f.Messages().Get(i).FullName(); !tried[string(name)] {
				t.Errorf("%s was not tried", name)
			}
		}
		return true
	})
}

func loadSchema(t *testing.T) *protoregistry.Files {
	t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(schema.Compiled(), set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func describe(t *testing.T, schema *protoregistry.Files, message reflect.Type) protoreflect.MessageDescriptor {
	t.Helper()
	pkg := "grpc."
	if strings.HasSuffix(message.PkgPath(), "typespb") {
		pkg = "types."
	}
	desc, err := schema.FindDescriptorByName(protoreflect.FullName(pkg + message.Name()))
	if err != nil {
		t.Fatalf("%v: %v", message, err)
	}
	return desc.(protoreflect.MessageDescriptor)
}

func compare(t *testing.T, theirs *dynamicpb.Message, ours ttrpc.Message) {
	t.Helper()
	name := theirs.Descriptor().FullName()
	wire, err := proto.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.UnmarshalVT(wire); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	again := dynamicpb.NewMessage(theirs.Descriptor())
	if err := proto.Unmarshal(encode(t, ours), again); err != nil {
		t.Fatalf("%s: the reference does not decode ours: %v", name, err)
	}
	if !proto.Equal(theirs, again) {
		t.Fatalf("%s: %v became %v", name, theirs, again)
	}
}

// fill sets fields at random, to a depth of inner messages.
func fill(r *rand.Rand, m protoreflect.Message, depth int, tried map[string]bool) {
	tried[string(m.Descriptor().FullName())] = true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(3) == 0 || f.Message() != nil && depth == 0 {
			continue
		}
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			for range r.IntN(3) {
				value := entries.NewValue()
				if f.MapValue().Message() != nil {
					fill(r, value.Message(), depth-1, tried)
				} else {
					value = scalar(r, f.MapValue())
				}
				entries.Set(scalar(r, f.MapKey()).MapKey(), value)
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(3) {
				if f.Message() != nil {
					fill(r, list.AppendMutable().Message(), depth-1, tried)
				} else {
					list.Append(scalar(r, f))
				}
			}
		case f.Message() != nil:
			fill(r, m.Mutable(f).Message(), depth-1, tried)
		default:
			m.Set(f, scalar(r, f))
		}
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	number := r.Uint64() >> r.IntN(65)
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(number))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(number)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("é", r.IntN(100)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(make([]byte, r.IntN(200)))
	}
	panic("a kind that the schema does not use: " + f.Kind().String())
}
