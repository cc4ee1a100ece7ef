// Protogen turns the .proto files of the agent API into Go: messages without
// reflection (protobuf-go-lite's generator) and typed ttRPC clients and
// servers (this program's own). It needs no protoc and no plugin binary; all
// parts are pinned by this module's go.mod, which is apart from the product's
// so that generators never reach it.
//
//	go run . -proto ../../api/proto -out ../..          write the files
//	go run . -proto ../../api/proto -out ../.. -check   fail if they differ
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	proto := flag.String("proto", "api/proto", "folder with the .proto files")
	out := flag.String("out", ".", "root folder of Go module kata")
	check := flag.Bool("check", false, "write nothing; fail if a file is not up to date")
	flag.Parse()
	if err := run(*proto, *out, *check); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(protoDir, outDir string, check bool) error {
	files, err := generate(protoDir)
	if err != nil {
		return err
	}
	if check {
		return compare(files, outDir)
	}
	for _, f := range files {
		path := filepath.Join(outDir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare reports every file in which outDir differs from what the .proto
// files say.
func compare(files []file, outDir string) error {
	var errs []error
	for _, f := range files {
		have, err := os.ReadFile(filepath.Join(outDir, f.name))
		if err != nil {
			errs = append(errs, err)
		} else if !bytes.Equal(have, f.content) {
			errs = append(errs, fmt.Errorf("%s is not what the .proto files say: run go generate ./api/...", f.name))
		}
	}
	return errors.Join(errs...)
}
