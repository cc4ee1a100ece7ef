package ocispec

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata/api/ocipb"
	"kata/guest/container/hooks"
)

func TestWhatCannotBeRunIsNamed(t *testing.T) {
	parse := func(h *ocipb.Hooks) error { _, err := parseHooks(h); return err }
	for _, tt := range []struct {
		is   string
		hook *ocipb.Hook
		want string
	}{
		{"no hook at all", nil, `hooks.createRuntime[1].path "" is not an absolute path`},
		{"a relative path", &ocipb.Hook{Path: "bin/x"}, `hooks.createRuntime[1].path "bin/x" is not an absolute path`},
		{"a path with a zero byte", &ocipb.Hook{Path: "/bin/x\x00"}, `hooks.createRuntime[1].path "/bin/x\x00" is not an absolute path`},
		{"a time that is over", &ocipb.Hook{Path: "/x", Timeout: -1}, "hooks.createRuntime[1].timeout -1 is not above 0"},
		{"an argument with a zero byte", &ocipb.Hook{Path: "/x", Args: []string{"x", "\x00"}}, `hooks.createRuntime[1].args[1] "\x00" holds a zero byte`},
		{"a variable without a value", &ocipb.Hook{Path: "/x", Env: []string{"A=b", "C"}}, `hooks.createRuntime[1].env[1] "C" is not a variable and its value`},
		{"a value without a name", &ocipb.Hook{Path: "/x", Env: []string{"=b"}}, `hooks.createRuntime[1].env[0] "=b" is not a variable and its value`},
		{"all that there can be", &ocipb.Hook{Path: "/x", Args: []string{""}, Env: []string{"A="}, Timeout: math.MaxInt64}, ""},
	} {
		t.Run(tt.is, func(t *testing.T) {
			err := parse(&ocipb.Hooks{CreateRuntime: []*ocipb.Hook{{Path: "/fine"}, tt.hook}})
			if (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if err := parse(nil); err != nil {
		t.Error(err)
	}
}

func TestHooksKeepTheirKind(t *testing.T) {
	hook := func(path string) []*ocipb.Hook { return []*ocipb.Hook{{Path: path, Args: []string{"x"}, Timeout: 2}} }
	got, err := parseHooks(&ocipb.Hooks{
		Prestart: hook("/1"), CreateRuntime: hook("/2"), CreateContainer: hook("/3"), StartContainer: hook("/4"), Poststart: hook("/5"), Poststop: hook("/6"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var want hooks.Set
	for k, path := range map[hooks.Kind]string{
		hooks.Prestart: "/1", hooks.CreateRuntime: "/2", hooks.CreateContainer: "/3", hooks.StartContainer: "/4", hooks.Poststart: "/5", hooks.Poststop: "/6",
	} {
		want[k] = []hooks.Hook{{Path: path, Args: []string{"x"}, Timeout: 2 * time.Second}}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
