package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/journal"
)

// noting is a hook that adds the moment, the status and the pid that it is told
// to a file of the bundle, and then does what more says.
func noting(moment, more string) []specs.Hook {
	script := `state=$(cat); status=${state##*\"status\":\"}; pid=${state##*\"pid\":}
echo "$0 ${status%%\"*} ${pid%%,*}" | sed 's/{.*/none/' >>notes; ` + more
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script, moment}, Env: []string{"PATH=/bin:/usr/bin"}}}
}

func allMoments() *specs.Hooks {
	h := &specs.Hooks{
		CreateRuntime: noting("createRuntime", ""), Poststart: noting("poststart", ""), Poststop: noting("poststop", ""),
	}
	//lint:ignore SA1019 prestart hooks are deprecated, not gone
	h.Prestart = noting("prestart", "")
	return h
}

func notes(t *testing.T, bundle string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(bundle, "notes"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func TestHooksOfTheHostRunAtTheirMoments(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	o.Spec.Hooks = allMoments()
	c, err := s.CreateContainer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Init().PID()
	want := []string{fmt.Sprintf("prestart creating %d", pid), fmt.Sprintf("createRuntime creating %d", pid)}
	if got := notes(t, o.Bundle); !slices.Equal(got, want) {
		t.Errorf("after the creation there ran %q, want %q", got, want)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want = append(want, fmt.Sprintf("poststart running %d", pid))
	if got := notes(t, o.Bundle); !slices.Equal(got, want) {
		t.Errorf("after the start there ran %q, want %q", got, want)
	}
	for range 2 {
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "poststop stopped none")
	if got := notes(t, o.Bundle); !slices.Equal(got, want) {
		t.Errorf("after the deletion there ran %q, want %q", got, want)
	}
	f.noContainerIsLeft(s)
}

func TestAHookThatFailsEndsWhatItIsAHookOf(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	o.Spec.Hooks = allMoments()
	o.Spec.Hooks.CreateRuntime = noting("createRuntime", "echo this will not do; exit 5")
	_, err := s.CreateContainer(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "create container c1: createRuntime hook /bin/sh: exit status 5: this will not do") {
		t.Errorf("creating gave %v", err)
	}
	if got := notes(t, o.Bundle); len(got) != 3 || got[2] != "poststop stopped none" {
		t.Errorf("there ran %q", got)
	}
	f.noContainerIsLeft(s)

	o = f.container("c2", "sleep")
	o.Spec.Hooks = allMoments()
	o.Spec.Hooks.Poststart = noting("poststart", "exit 6")
	o.Spec.Hooks.Poststop = append(noting("poststop", "exit 7"), noting("again", "")...)
	c, err := s.CreateContainer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "start container c2: poststart hook /bin/sh: exit status 6") {
		t.Errorf("starting gave %v", err)
	}
	if status := awaitExit(t, c.Init()); status != statusKilled {
		t.Errorf("it ended with %d", status)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("a poststop hook that fails is an error: %v", err)
	}
	if got := notes(t, o.Bundle); len(got) != 5 || got[4] != "again stopped none" {
		t.Errorf("there ran %q", got)
	}
}

func TestHooksThatCannotBeRunAreRefusedBeforeAnythingIsMade(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	o.Spec.Hooks = allMoments()
	o.Spec.Hooks.Poststop[0].Path = "relative"
	if _, err := s.CreateContainer(t.Context(), o); err == nil || !strings.Contains(err.Error(), `hooks.poststop[0].path "relative" is not absolute`) {
		t.Errorf("creating gave %v", err)
	}
	if got := notes(t, o.Bundle); len(got) != 1 || got[0] != "" {
		t.Errorf("there ran %q", got)
	}
	f.noContainerIsLeft(s)
}

// What is to run after a shim's death is in its journal.
func TestPoststopHooksAreInTheJournal(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	o := f.container("c1", "sleep")
	o.Spec.Hooks = allMoments()
	if _, err := s.CreateContainer(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.records(s) {
		entry, ok := r.Entry.(journal.Poststop)
		if !ok {
			continue
		}
		if err := journal.Release(t.Context(), entry); err != nil {
			t.Error(err)
		}
		got := notes(t, o.Bundle)
		if last := got[len(got)-1]; last != "poststop stopped none" {
			text, _ := json.Marshal(entry)
			t.Errorf("there ran %q by %s", got, text)
		}
		return
	}
	t.Errorf("the journal lists %v", f.records(s))
}
