// Command protogen turns the .proto files of the agent API into Go: messages without
// reflection (protobuf-go-lite's generator) and typed ttRPC clients and
// servers (this program's own). It needs no protoc and no plugin binary; all
// parts are pinned by this module's go.mod, which is apart from the product's
// so that generators never reach it.
//
//	go run .           write the files
//	go run . -check    write nothing, fail if they differ
//
// Beside the Go files it writes api/generated.sum, the hashes of what went in
// and what came out, by which a test notices without a generator that one was
// changed and not the other.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Places in the repository, relative to its root.
const (
	schemaDir = "api/proto"
	sourceDir = "tools/protogen"
	sumFile   = "api/generated.sum"
	// The compiled schema, for programs with reflection: package api/schema.
	descriptorFile = "api/schema/schema.binpb"
)

// file is a generated file; name is relative to the repository's root.
type file struct {
	name    string
	content []byte
}

func main() {
	root := flag.String("root", "../..", "root folder of the repository")
	check := flag.Bool("check", false, "write nothing; fail if a file is not up to date")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files, err := generate(filepath.Join(root, schemaDir))
	if err != nil {
		return err
	}
	sum, err := sums(root, files)
	if err != nil {
		return err
	}
	files = append(files, sum)
	if check {
		return compare(root, files)
	}
	for _, f := range files {
		path := filepath.Join(root, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare reports every file in which the repository differs from what the
// schema says.
func compare(root string, files []file) error {
	var errs []error
	for _, f := range files {
		have, err := os.ReadFile(filepath.Join(root, f.name))
		if err != nil {
			errs = append(errs, err)
		} else if !bytes.Equal(have, f.content) {
			errs = append(errs, fmt.Errorf("%s is not what the schema says: run go generate ./api/", f.name))
		}
	}
	return errors.Join(errs...)
}

// sums returns the file of hashes: of the schema, the generator and the
// generated files, in sha256sum's format.
func sums(root string, generated []file) (file, error) {
	all := slices.Clone(generated)
	for _, pattern := range []string{schemaDir + "/*.proto", sourceDir + "/*.go", sourceDir + "/go.mod"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return file{}, err
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return file{}, err
			}
			all = append(all, file{filepath.Join(filepath.Dir(pattern), filepath.Base(path)), content})
		}
	}
	slices.SortFunc(all, func(a, b file) int { return strings.Compare(a.name, b.name) })
	var out bytes.Buffer
	for _, f := range all {
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(f.content), f.name)
	}
	return file{sumFile, out.Bytes()}, nil
}
