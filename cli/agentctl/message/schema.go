package message

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"kata/api/schema"
)

// Method is one call of the agent's API.
type Method struct {
	Name, Service     string // Service with its package: "grpc.AgentService"
	Request, Response Type
}

// Schema knows the messages and calls of the agent's API.
type Schema struct{ files, shown *protoregistry.Files }

// New returns the schema that is built in. It panics if that cannot be read, which
// no input can cause.
func New() *Schema {
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(schema.Compiled(), set); err != nil {
		panic(fmt.Sprintf("read the compiled schema: %v", err))
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		panic(fmt.Sprintf("link the compiled schema: %v", err))
	}
	for _, f := range set.File {
		tellZero(f)
	}
	shown, err := protodesc.NewFiles(set)
	if err != nil {
		panic(fmt.Sprintf("link the compiled schema with presence: %v", err))
	}
	return &Schema{files, shown}
}

// tellZero turns a file of proto3 into one of edition 2023, in which every field
// tells whether it is set. The encoding is the same.
func tellZero(f *descriptorpb.FileDescriptorProto) {
	f.Syntax, f.Edition = proto.String("editions"), descriptorpb.Edition_EDITION_2023.Enum()
	for _, m := range f.MessageType {
		m.OneofDecl = nil // they stand for optional fields; the schema has no others
		for _, field := range m.Field {
			field.Proto3Optional, field.OneofIndex = nil, nil
		}
	}
}

// Type returns the type of a message by its full name, as "grpc.Storage".
func (s *Schema) Type(name string) (Type, error) {
	desc, err := s.files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return Type{}, reworded(err)
	}
	shown, err := s.shown.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return Type{}, reworded(err)
	}
	of, ok := desc.(protoreflect.MessageDescriptor)
	if !ok {
		return Type{}, fmt.Errorf("%s is no message", name)
	}
	return Type{of, shown.(protoreflect.MessageDescriptor)}, nil
}

// Methods returns all calls, by name.
func (s *Schema) Methods() []Method {
	var all []Method
	s.files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				request, requestErr := s.Type(string(m.Input().FullName()))
				response, responseErr := s.Type(string(m.Output().FullName()))
				if requestErr != nil || responseErr != nil {
					continue // a descriptor that is linked has both
				}
				all = append(all, Method{string(m.Name()), string(service.FullName()), request, response})
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b Method) int { return strings.Compare(a.Name, b.Name) })
	return all
}
