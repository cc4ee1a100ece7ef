// Package options reads the runtime options that containerd passes to a shim:
// at its start, and again with every Create.
package options

import (
	"bytes"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options are what an operator set for the runtime in containerd's
// configuration, or a user with ctr's --runtime-config-path.
type Options struct {
	// ConfigPath is the absolute path of a configuration.toml; empty when none
	// was named.
	ConfigPath string
	// Ignored is the type URL of options that are for another runtime, such as
	// "containerd.runc.v1.Options"; empty when there were none. They have no
	// effect, as with upstream's shim; the caller logs them.
	Ignored string
}

// Decode reads the options. None, or empty ones, are the zero Options. Those of
// another runtime are not looked into: clients that know only runc (containerd's
// client up to 1.7 for a user namespace, its conformance suite, nerdctl) send
// them to every shim. Our own that cannot be read are an error.
func Decode(a *anypb.Any) (Options, error) {
	if a.GetTypeUrl() == "" {
		if len(a.GetValue()) > 0 {
			return Options{}, errors.New("runtime options have no type")
		}
		return Options{}, nil
	}
	o := new(runtimeoptions.Options)
	// containerd's type URLs are bare names, or have a prefix such as a host.
	if path.Base(a.GetTypeUrl()) != string(proto.MessageName(o)) {
		return Options{Ignored: a.GetTypeUrl()}, nil
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
