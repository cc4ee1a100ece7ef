package bootstrap

import (
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/host/shim/options"
)

// RuntimeName is the name by which containerd's users ask for this runtime.
const RuntimeName = "io.containerd.kata.v2"

// Build says what was built.
type Build struct{ Version, Commit string }

// PrintVersion answers -v, as upstream does.
func PrintVersion(b Build, stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "Kata Containers containerd shim: id: %q, version: %s, commit: %s\n", RuntimeName, b.Version, b.Commit)
	return err
}

// PrintInfo answers -info: a RuntimeInfo message. Standard input may hold the
// runtime's options, which are checked and given back.
func PrintInfo(b Build, stdin io.Reader, stdout io.Writer) error {
	info := &types.RuntimeInfo{
		Name:    RuntimeName,
		Version: &types.RuntimeVersion{Version: b.Version, Revision: b.Commit},
	}
	var err error
	if info.Features, err = packedFeatures(); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	if len(data) > 0 {
		info.Options = new(anypb.Any)
		if err := proto.Unmarshal(data, info.Options); err != nil {
			return fmt.Errorf("standard input has no runtime options: %w", err)
		}
		if _, err := options.Decode(info.Options); err != nil {
			return err
		}
	}
	out, err := proto.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode the description: %w", err)
	}
	_, err = stdout.Write(out)
	return err
}
