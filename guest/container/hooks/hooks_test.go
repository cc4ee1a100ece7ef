package hooks

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/ocipb"
)

func TestWhatCannotBeRunIsNamed(t *testing.T) {
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
			err := Validate(&ocipb.Hooks{CreateRuntime: []*ocipb.Hook{{Path: "/fine"}, tt.hook}})
			if (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if err := Validate(nil); err != nil {
		t.Error(err)
	}
}

func TestFindTakesWhatMayBeExecutedInOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("prestart/b", 0o755)
	write("prestart/a", 0o100)
	write("prestart/README", 0o644)
	write("prestart/folder/x", 0o755)
	write("poststop/z", 0o755)
	write("other/y", 0o755)
	write("program", 0o755)
	if err := os.Symlink("../program", filepath.Join(dir, "prestart/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "prestart/lost")); err != nil {
		t.Fatal(err)
	}
	got, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	hook := func(kind, name string) *ocipb.Hook {
		return &ocipb.Hook{Path: filepath.Join(dir, kind, name), Args: []string{name, kind}, Timeout: 10}
	}
	want := &ocipb.Hooks{
		Prestart: []*ocipb.Hook{hook("prestart", "a"), hook("prestart", "b"), hook("prestart", "link")},
		Poststop: []*ocipb.Hook{hook("poststop", "z")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{dir + "/none", dir + "/program"} {
		if _, err := Find(wrong); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	write("createContainer", 0o755) // a file in the place of a folder
	if _, err := Find(dir); err == nil {
		t.Error("a file was searched for hooks")
	}
}

func TestJoinPutsTheSecondBehindTheFirst(t *testing.T) {
	one, two, three := &ocipb.Hook{Path: "/1"}, &ocipb.Hook{Path: "/2"}, &ocipb.Hook{Path: "/3"}
	a := &ocipb.Hooks{Prestart: []*ocipb.Hook{one}, Poststop: []*ocipb.Hook{three}}
	b := &ocipb.Hooks{Prestart: []*ocipb.Hook{two}, StartContainer: []*ocipb.Hook{three}}
	want := &ocipb.Hooks{Prestart: []*ocipb.Hook{one, two}, StartContainer: []*ocipb.Hook{three}, Poststop: []*ocipb.Hook{three}}
	if diff := cmp.Diff(want, Join(a, b)); diff != "" {
		t.Error(diff)
	}
	if Join(a, nil) != a || !cmp.Equal(Join(nil, b), b) || Join(nil, nil) != nil || len(a.Prestart) != 1 {
		t.Error("joining with nothing changes something")
	}
}

func TestStateIsTheSpecifications(t *testing.T) {
	for _, tt := range []struct {
		is    string
		state State
		want  map[string]any
	}{
		{
			"a running container",
			State{Version: "1.1.0", ID: "c1", Status: "running", PID: 17, Bundle: "/b", Annotations: map[string]string{"a": "1", "b\"\\": "é\n\x01\xff"}},
			map[string]any{"ociVersion": "1.1.0", "id": "c1", "status": "running", "pid": 17.0, "bundle": "/b",
				"annotations": map[string]any{"a": "1", "b\"\\": "é\n\x01\uFFFD"}},
		},
		{
			"one that is gone",
			State{ID: "c1", Status: "stopped", Bundle: "/b"},
			map[string]any{"ociVersion": "1.3.0", "id": "c1", "status": "stopped", "bundle": "/b"},
		},
	} {
		t.Run(tt.is, func(t *testing.T) {
			var got map[string]any
			if err := json.Unmarshal(tt.state.json(), &got); err != nil {
				t.Fatalf("%v: %s", err, tt.state.json())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
