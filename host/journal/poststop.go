package journal

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/hook"
)

// Poststop are a container's poststop hooks, to be run when it has been deleted.
// There are none before its first hook has run, and after these have.
type Poststop struct {
	Hooks []specs.Hook `json:"hooks,omitempty"`
	State specs.State  `json:"state"`
}

func (Poststop) kind() string { return "poststop" }

func (p Poststop) String() string { return "poststop hooks of container " + p.State.ID }

// release runs the hooks in this process's namespaces. A hook that fails is to be
// told as a warning and stops nothing (runtime-spec, runtime.md, "Lifecycle"):
// here, where nobody is left to be warned, it is not told.
func (p Poststop) release(ctx context.Context) error {
	_ = hook.Runner{}.RunAll(ctx, hook.Poststop, p.Hooks, p.State)
	return nil
}
