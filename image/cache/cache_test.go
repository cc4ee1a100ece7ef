package cache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var inputs = map[string]string{"source": "s1", "compiler": "c1"}

func put(name, text string) Builder {
	return func(_ context.Context, out, work string) error {
		return os.WriteFile(filepath.Join(out, name), []byte(text), 0o755)
	}
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustMake(t *testing.T, s *Store, b Builder) (*Entry, bool) {
	t.Helper()
	e, cached, err := s.Make(t.Context(), "kind", inputs, func(m string) { t.Log(m) }, b)
	if err != nil {
		t.Fatal(err)
	}
	return e, cached
}

func TestAnEntryIsBuiltOnceAndReused(t *testing.T) {
	s := open(t)
	if _, err := s.Get("kind", inputs); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("empty store: %v", err)
	}
	e, cached := mustMake(t, s, put("a", "one"))
	if cached {
		t.Error("cached in an empty store")
	}
	if text, err := os.ReadFile(e.Path("a")); err != nil || string(text) != "one" {
		t.Errorf("%q, %v", text, err)
	}
	again, cached := mustMake(t, s, put("a", "two"))
	if !cached || again.Files["a"] != e.Files["a"] {
		t.Errorf("built again: %v", again)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Key != Key(inputs) {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestDamageIsDetectedAndRepaired(t *testing.T) {
	for name, damage := range map[string]func(e *Entry) error{
		"a changed file":       func(e *Entry) error { return os.WriteFile(e.Path("a"), []byte("oNe"), 0o644) },
		"a truncated file":     func(e *Entry) error { return os.Truncate(e.Path("a"), 1) },
		"a missing file":       func(e *Entry) error { return os.Remove(e.Path("a")) },
		"a missing manifest":   func(e *Entry) error { return os.Remove(e.Path(manifestName)) },
		"a truncated manifest": func(e *Entry) error { return os.Truncate(e.Path(manifestName), 20) },
		"another's manifest": func(e *Entry) error {
			return os.WriteFile(e.Path(manifestName), []byte(`{"inputs":{"x":"y"},"files":{"a":"b"}}`), 0o644)
		},
		"a manifest that points elsewhere": func(e *Entry) error {
			return os.WriteFile(e.Path(manifestName), []byte(`{"inputs":{"source":"s1","compiler":"c1"},"files":{"../a":"b"}}`), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			e, _ := mustMake(t, s, put("a", "one"))
			if err := damage(e); err != nil {
				t.Fatal(err)
			}
			var damaged *DamagedError
			if _, err := s.Get("kind", inputs); !errors.As(err, &damaged) {
				t.Fatalf("not detected: %v", err)
			}
			e, cached := mustMake(t, s, put("a", "two"))
			text, err := os.ReadFile(e.Path("a"))
			if cached || err != nil || string(text) != "two" {
				t.Errorf("cached %v, %q, %v", cached, text, err)
			}
		})
	}
}

func TestAFailedBuildLeavesNoEntryAndKeepsItsWork(t *testing.T) {
	s := open(t)
	boom := errors.New("boom")
	_, _, err := s.Make(t.Context(), "kind", inputs, func(string) {}, func(_ context.Context, out, work string) error {
		return errors.Join(boom,
			os.WriteFile(filepath.Join(out, "a"), []byte("half"), 0o644),
			os.WriteFile(filepath.Join(work, "progress"), []byte("50"), 0o644))
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Get("kind", inputs); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an entry is there: %v", err)
	}
	_, _, err = s.Make(t.Context(), "kind", inputs, func(string) {}, func(_ context.Context, out, work string) error {
		if text, err := os.ReadFile(filepath.Join(work, "progress")); err != nil || string(text) != "50" {
			t.Errorf("work: %q, %v", text, err)
		}
		if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
			t.Errorf("out is not empty: %v, %v", left, err)
		}
		return os.WriteFile(filepath.Join(out, "a"), []byte("whole"), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(s.Dir(), "kind", ".*.[nw]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestConcurrentBuildersBuildOnce(t *testing.T) {
	s := open(t)
	var mu sync.Mutex
	builds := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, _, err := s.Make(t.Context(), "kind", inputs, func(string) {}, func(ctx context.Context, out, work string) error {
				mu.Lock()
				builds++
				mu.Unlock()
				return put("a", "one")(ctx, out, work)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("%d builds", builds)
	}
}

func TestWaitingForAnotherBuilderCanBeGivenUp(t *testing.T) {
	s := open(t)
	building, finish := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		mustMake(t, s, func(ctx context.Context, out, work string) error {
			close(building)
			<-finish
			return put("a", "one")(ctx, out, work)
		})
	})
	<-building
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	_, _, err := s.Make(ctx, "kind", inputs, func(m string) {
		if !strings.Contains(m, "waiting for another process") {
			t.Errorf("notified %q", m)
		}
		cancel(stop)
	}, nil)
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	close(finish)
	wg.Wait()
}

func TestExportReplacesAtomically(t *testing.T) {
	s := open(t)
	e, _ := mustMake(t, s, put("a", "one"))
	path := filepath.Join(t.TempDir(), "deep", "er", "file")
	for range 2 {
		if err := e.Export("a", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := e.Export("a", path); err != nil {
		t.Fatal(err)
	}
	var was [5]byte
	if _, err := old.Read(was[:]); err != nil || string(was[:]) != "other" {
		t.Errorf("the old file was changed: %q, %v", was, err)
	}
	text, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(text) != "one" || info.Mode().Perm() != 0o755 {
		t.Errorf("%q %v %v %v", text, err, info, statErr)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeyTellsInputsApart(t *testing.T) {
	seen := map[string]bool{}
	for _, in := range []map[string]string{
		{}, {"a": "b"}, {"a": "bc"}, {"ab": "c"}, {"a": "1", "b": "2"}, {"a": "1\n1:b=1:2"},
	} {
		k := Key(in)
		if seen[k] {
			t.Errorf("%v has the key of another", in)
		}
		seen[k] = true
	}
}
