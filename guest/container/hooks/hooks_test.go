package hooks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

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
	hook := func(kind, name string) Hook {
		return Hook{Path: filepath.Join(dir, kind, name), Args: []string{name, kind}, Timeout: FolderTimeout}
	}
	want := Set{
		Prestart: {hook("prestart", "a"), hook("prestart", "b"), hook("prestart", "link")},
		Poststop: {hook("poststop", "z")},
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

func TestWithPutsTheSecondBehindTheFirst(t *testing.T) {
	one, two, three := Hook{Path: "/1"}, Hook{Path: "/2"}, Hook{Path: "/3"}
	a := Set{Prestart: make([]Hook, 1, 5), Poststop: {three}}
	a[Prestart][0] = one
	b := Set{Prestart: {two}, StartContainer: {three}}
	want := Set{Prestart: {one, two}, StartContainer: {three}, Poststop: {three}}
	for range 2 { // the first time changes neither
		if diff := cmp.Diff(want, a.With(b), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
	if len(a[Prestart]) != 1 || len(b[Poststop]) != 0 || !cmp.Equal(a.With(Set{}), a, cmpopts.EquateEmpty()) {
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
