// Package options reads the runtime options that containerd passes to a shim:
// at its start, and again with every Create.
package options

import (
	"bytes"
	"fmt"
	"path"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options are what an operator set for the runtime in containerd's
// configuration, or a user with ctr's --runtime-config-path.
type Options struct {
	// ConfigPath is the absolute path of a configuration.toml; empty when none
	// was named.
	ConfigPath string
}

// Decode reads the options. None, or empty ones, are the zero Options; those of
// another runtime are an error that names their type.
func Decode(a *anypb.Any) (Options, error) {
	if a.GetTypeUrl() == "" && len(a.GetValue()) == 0 {
		return Options{}, nil
	}
	o := new(runtimeoptions.Options)
	// containerd's type URLs are bare names, or have a prefix such as a host.
	name := path.Base(a.GetTypeUrl())
	if name == legacyType {
		return Options{}, checkLegacy(a.GetValue())
	}
	if name != string(proto.MessageName(o)) {
		return Options{}, fmt.Errorf("runtime options of type %q are not for this runtime, which takes %s", a.GetTypeUrl(), proto.MessageName(o))
	}
	if err := proto.Unmarshal(a.GetValue(), o); err != nil {
		return Options{}, fmt.Errorf("runtime options: %w", err)
	}
	switch {
	case o.GetConfigPath() == "" && len(bytes.TrimSpace(o.GetConfigBody())) > 0:
		return Options{}, fmt.Errorf("runtime options have no ConfigPath, and others have no effect: %q", o.GetConfigBody())
	case o.GetConfigPath() != "" && !path.IsAbs(o.GetConfigPath()):
		return Options{}, fmt.Errorf("runtime option ConfigPath %q is not an absolute path", o.GetConfigPath())
	}
	return Options{ConfigPath: o.GetConfigPath()}, nil
}

// legacyType is what containerd's client up to 1.7 sends to every runtime but
// runc's for a container with a user namespace, to say to whom its standard
// streams are to belong.
const legacyType = "containerd.linux.runc.CreateOptions"

// checkLegacy accepts that, which the agent does by itself; other fields are
// about runc.
func checkLegacy(b []byte) error {
	const ioUID, ioGID = 10, 11
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("runtime options: %w", protowire.ParseError(n))
		}
		if number != ioUID && number != ioGID {
			return fmt.Errorf("runtime options of type %q: field %d is for runc", legacyType, number)
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return fmt.Errorf("runtime options: %w", protowire.ParseError(size))
		}
		b = b[n+size:]
	}
	return nil
}
