package main

import (
	"bytes"
	"context"
	"fmt"
	"go/format"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"

	"github.com/aperturerobotics/protobuf-go-lite/compiler/protogen"
	"github.com/aperturerobotics/protobuf-go-lite/generator"
	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// goLite is the module whose generator makes the messages.
const goLite = "github.com/aperturerobotics/protobuf-go-lite"

// generate compiles all .proto files in dir and returns the Go files.
func generate(dir string) ([]file, error) {
	req, err := compile(dir)
	if err != nil {
		return nil, err
	}
	plugin, err := protogen.Options{}.New(req)
	if err != nil {
		return nil, err
	}
	registerCodec(plugin)
	gen, err := generator.NewGenerator(plugin, []string{codecName}, &generator.Config{})
	if err != nil {
		return nil, err
	}
	gen.Generate()
	for _, f := range plugin.Files {
		if f.Generate && len(f.Services) > 0 {
			generateServices(plugin, f)
		}
	}
	resp := plugin.Response()
	if resp.Error != nil {
		return nil, fmt.Errorf("generate: %s", resp.GetError())
	}
	var files []file
	for _, f := range resp.File {
		content, err := finish([]byte(f.GetContent()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.GetName(), err)
		}
		files = append(files, file{f.GetName(), content})
	}
	descriptors, err := proto.MarshalOptions{Deterministic: true}.Marshal(&descriptorpb.FileDescriptorSet{File: withoutComments(req.ProtoFile)})
	if err != nil {
		return nil, err
	}
	return append(files, file{descriptorFile, descriptors}), nil
}

// compile parses and links the .proto files in dir into the request that
// generators take.
func compile(dir string) (*pluginpb.CodeGeneratorRequest, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.proto"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no .proto file in %s", dir)
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	slices.Sort(names)
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{dir}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	linked, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		return nil, err
	}
	param := "module=kata"
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: &param}
	seen := make(map[string]bool)
	var add func(f linker.File)
	add = func(f linker.File) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		imports := f.Imports()
		for i := range imports.Len() {
			add(f.FindImportByPath(imports.Get(i).Path()))
		}
		req.ProtoFile = append(req.ProtoFile, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range linked {
		add(f)
	}
	return req, nil
}

// tags are the tags of a field: the codec needs none of them, and tools that look
// at messages the name alone. Each program that links a message carries them.
var tags = regexp.MustCompile("`protobuf:\"[^`]*?name=([A-Za-z0-9_]+)[^`]*`")

var unknownFields = regexp.MustCompile(`(?m)^\tunknownFields +\[\]byte\n`)

// withoutComments returns the descriptors without the places and comments of
// the source.
func withoutComments(files []*descriptorpb.FileDescriptorProto) []*descriptorpb.FileDescriptorProto {
	var bare []*descriptorpb.FileDescriptorProto
	for _, f := range files {
		f = proto.CloneOf(f)
		f.SourceCodeInfo = nil
		bare = append(bare, f)
	}
	return bare
}

// finish makes the last changes to a generated file: messages lose their place
// for unknown fields, which the codec drops, tags become short, and the file gets
// its stamp.
func finish(content []byte) ([]byte, error) {
	content = tags.ReplaceAll(content, []byte("`pb:\"$1\"`"))
	return format.Source(stamp(unknownFields.ReplaceAll(content, nil)))
}

// stamp puts the pinned version of the message generator in place of the one
// that it takes from the running program, which differs from run to run.
func stamp(content []byte) []byte {
	const line = "// protoc-gen-go-lite version: "
	from := bytes.Index(content, []byte(line))
	if from < 0 {
		return content
	}
	to := from + bytes.IndexByte(content[from:], '\n')
	return slices.Concat(content[:from], []byte(line+goLiteVersion()), content[to:])
}

func goLiteVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == goLite {
				return dep.Version
			}
		}
	}
	return "unknown"
}
