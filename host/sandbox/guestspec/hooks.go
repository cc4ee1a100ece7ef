package guestspec

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

// hooks translates the hooks that run in the guest: those of the container's
// namespaces, or all. On the wire a time-out of 0 is none at all.
func hooks(h *specs.Hooks, all bool) (*ocipb.Hooks, error) {
	if h == nil || !all && len(h.CreateContainer)+len(h.StartContainer) == 0 {
		return nil, nil
	}
	if !all {
		h = &specs.Hooks{CreateContainer: h.CreateContainer, StartContainer: h.StartContainer}
	}
	out := &ocipb.Hooks{}
	for _, row := range []struct {
		kind string
		in   []specs.Hook
		out  *[]*ocipb.Hook
	}{
		//lint:ignore SA1019 prestart hooks are deprecated, not gone
		{"prestart", h.Prestart, &out.Prestart},
		{"createRuntime", h.CreateRuntime, &out.CreateRuntime},
		{"createContainer", h.CreateContainer, &out.CreateContainer},
		{"startContainer", h.StartContainer, &out.StartContainer},
		{"poststart", h.Poststart, &out.Poststart},
		{"poststop", h.Poststop, &out.Poststop},
	} {
		for i, hook := range row.in {
			converted := &ocipb.Hook{Path: hook.Path, Args: hook.Args, Env: hook.Env}
			if hook.Timeout != nil {
				if *hook.Timeout <= 0 {
					return nil, fmt.Errorf("spec: hooks.%s[%d].timeout %d is not above 0", row.kind, i, *hook.Timeout)
				}
				converted.Timeout = int64(*hook.Timeout)
			}
			*row.out = append(*row.out, converted)
		}
	}
	return out, nil
}
