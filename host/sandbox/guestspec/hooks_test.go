package guestspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

func TestOnlyHooksOfTheContainersNamespacesGoAlong(t *testing.T) {
	five, zero := 5, 0
	spec := minimal()
	spec.Hooks = &specs.Hooks{
		CreateRuntime:   []specs.Hook{{Path: "/r"}},
		CreateContainer: []specs.Hook{{Path: "/a", Args: []string{"a", "b"}, Env: []string{"C=d"}, Timeout: &five}},
		StartContainer:  []specs.Hook{{Path: "/s"}},
		Poststart:       []specs.Hook{{Path: "/y"}},
		Poststop:        []specs.Hook{{Path: "/z"}},
	}
	//lint:ignore SA1019 prestart hooks are deprecated, not gone
	spec.Hooks.Prestart = []specs.Hook{{Path: "/p"}}
	out, err := Convert(spec, Options{Rootfs: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	want := &ocipb.Hooks{
		CreateContainer: []*ocipb.Hook{{Path: "/a", Args: []string{"a", "b"}, Env: []string{"C=d"}, Timeout: 5}},
		StartContainer:  []*ocipb.Hook{{Path: "/s"}},
	}
	if diff := cmp.Diff(want, out.OCI.Hooks); diff != "" || len(out.Ignored) > 0 {
		t.Errorf("ignored %q\n%s", out.Ignored, diff)
	}
	out, err = Convert(spec, Options{Rootfs: "/r", GuestHooks: true})
	if h := out.OCI.Hooks; err != nil || len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) != 6 {
		t.Errorf("all are the guest's: %+v, %v", h, err)
	}
	spec = minimal()
	spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/fine"}, {Path: "/s", Timeout: &zero}}}
	_, err = Convert(spec, Options{Rootfs: "/r"})
	if err == nil || !strings.Contains(err.Error(), "hooks.startContainer[1].timeout 0 is not above 0") {
		t.Errorf("a time that is over: %v", err)
	}
	spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/z"}}}
	if out, err := Convert(spec, Options{Rootfs: "/r"}); err != nil || out.OCI.Hooks != nil {
		t.Errorf("the host's hooks: %+v, %v", out.OCI.Hooks, err)
	}
}
