// Package spec reads a bundle's config.json and tells what the shim has to know
// of it before anything is started: whether it can be run at all, and whether
// it is a pod of its own or a container of a pod.
//
// It translates nothing: host/sandbox makes the guest's spec.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FileName is the name of the spec in a bundle.
const FileName = "config.json"

// MaxSize bounds a spec, in bytes. Specs have some 10 KiB; one with thousands
// of mounts stays below 1 MiB.
const MaxSize = 8 << 20

// Read reads and checks the spec of the bundle. Every error is one line that
// names the file.
func Read(bundle string) (*specs.Spec, error) {
	s := new(specs.Spec)
	if err := decode(bundle, s); err != nil {
		return nil, err
	}
	if err := Check(s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(bundle, FileName), err)
	}
	return s, nil
}

// ReadAnnotations reads nothing but the annotations, for the start of a shim,
// which has no use for more.
func ReadAnnotations(bundle string) (map[string]string, error) {
	var s struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := decode(bundle, &s); err != nil {
		return nil, err
	}
	return s.Annotations, nil
}

func decode(bundle string, into any) error {
	path := filepath.Join(bundle, FileName)
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the bundle's spec: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return fmt.Errorf("read the bundle's spec: %w", err)
	}
	if len(b) > MaxSize {
		return fmt.Errorf("read the bundle's spec: %s is larger than %d bytes", path, MaxSize)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s is not a spec: %w", path, located(b, err))
	}
	return nil
}

// located adds the line to a JSON error that knows only its offset.
func located(b []byte, err error) error {
	var offset int64
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		return err
	}
	line := 1
	for _, c := range b[:min(max(offset, 0), int64(len(b)))] {
		if c == '\n' {
			line++
		}
	}
	return fmt.Errorf("line %d: %w", line, err)
}
