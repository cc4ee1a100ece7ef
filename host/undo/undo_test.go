package undo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/host/journal"
	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/undo.")) }

var errStuck = errors.New("stuck")

// ran makes steps that note that they ran, and fail as often as they are told.
type ran struct {
	stack *Stack
	order string
}

func (r *ran) push(what string, mode Mode, failures int) {
	r.stack.Push(what, mode, func(context.Context) error {
		r.order += what
		if failures--; failures >= 0 {
			return errStuck
		}
		return nil
	})
}

func TestStepsRunOnceInReverseAndFailedOnesAgain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps func(r *ran)
		want  []string // what each run does, until one succeeds
	}{
		{"nothing fails", func(r *ran) { r.push("a", Plain, 0); r.push("b", Plain, 0) }, []string{"ba"}},
		{"a failed one stays", func(r *ran) { r.push("a", Plain, 0); r.push("b", Plain, 2); r.push("c", Plain, 0) }, []string{"cba", "b", "b"}},
		{
			"what the guest uses stays while the guest does",
			func(r *ran) {
				r.push("r", UsedByGuest, 0)
				r.push("s", Plain, 0)
				r.push("g", EndsGuest, 1)
			},
			[]string{"gs", "gr"},
		},
		{
			"what is acquired after the guest was ended is nothing to it",
			func(r *ran) { r.push("g", EndsGuest, 1); r.push("r", UsedByGuest, 0) },
			[]string{"rg", "g"},
		},
		{
			"the last one waits for all",
			func(r *ran) { r.push("z", Last, 0); r.push("a", Plain, 1); r.push("b", Plain, 0) },
			[]string{"ba", "az"},
		},
		{
			"the last one waits for what is kept",
			func(r *ran) { r.push("z", Last, 0); r.push("r", UsedByGuest, 0); r.push("g", EndsGuest, 1) },
			[]string{"g", "grz"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &ran{stack: New(new(Memory))}
			tt.steps(r)
			var got []string
			for range tt.want {
				r.order = ""
				err := r.stack.Run(t.Context())
				got = append(got, r.order)
				if last := len(got) == len(tt.want); (err == nil) != last || (last != r.stack.Empty()) {
					t.Errorf("run %d gave %v; empty: %v", len(got), err, r.stack.Empty())
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			r.order = ""
			if err := r.stack.Run(t.Context()); err != nil || r.order != "" {
				t.Errorf("once more: %v, ran %q", err, r.order)
			}
		})
	}
}

func TestAnEntryIsWrittenBeforeAndForgottenAfter(t *testing.T) {
	j, err := journal.Claim(t.TempDir(), journal.Header{ID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s := New(j)
	path := filepath.Join(t.TempDir(), "s")
	held, err := s.Hold(journal.Socket{Path: path + "x"}, UsedByGuest)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Amend(journal.Socket{Path: path}); err != nil {
		t.Fatal(err)
	}
	want := []journal.Record{{Seq: 1, Mark: journal.UsedByGuest, Entry: journal.Socket{Path: path}}}
	if _, got, err := journal.Read(j.Dir()); err != nil || !cmp.Equal(got, want) {
		t.Errorf("on disk: %v, %v", got, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") || len(j.Records()) != 1 {
		t.Errorf("run gave %v, held are %v", err, j.Records())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil || len(j.Records()) != 0 {
		t.Errorf("run gave %v, held are %v", err, j.Records())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold(journal.Socket{Path: path}, Plain); err == nil || !s.Empty() {
		t.Errorf("held without a journal: %v", err)
	}
}

func TestRunsWaitForEachOther(t *testing.T) {
	s := New(new(Memory))
	entered, leave := make(chan struct{}), make(chan struct{})
	s.Push("slow", Plain, func(context.Context) error {
		close(entered)
		<-leave
		return nil
	})
	var all sync.WaitGroup
	all.Go(func() { _ = s.Run(t.Context()) })
	<-entered
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errStuck)
	if err := s.Run(ended); !errors.Is(err, errStuck) {
		t.Errorf("a run beside another gave %v", err)
	}
	all.Go(func() {
		if err := s.Run(t.Context()); err != nil || !s.Empty() {
			t.Errorf("the second gave %v; empty: %v", err, s.Empty())
		}
	})
	close(leave)
	all.Wait()
}

// Entries get time of their own when the caller has none left.
func TestEntriesAreReleasedAfterTheDeadline(t *testing.T) {
	s := New(new(Memory))
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := s.Hold(journal.Directory{Path: dir}, Plain); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is there")
	}
}
