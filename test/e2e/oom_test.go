//go:build e2e

package e2e

import (
	"slices"
	"testing"
)

// limited runs the script in a container with 32 MiB.
func (t *test) limited(script string) string {
	t.Helper()
	c := t.sh(script)
	c.Flags = append(c.Flags, "--memory-limit", "33554432")
	return t.detach(c)
}

// TestOOMKillsArePublishedBeforeTheExit: runc's shim learns of them beside the
// exit and tells of both in any order, so it is no oracle for that.
func TestOOMKillsArePublishedBeforeTheExit(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		status       int
		kills        int
	}{
		{"of the first process", "exec tail /dev/zero", 137, 1},
		{"of others", "tail /dev/zero; tail /dev/zero; exit 3", 3, 2},
	} {
		kata(t, tt.name, func(t *test) {
			events, err := node.BeginEvents(t.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer events.Stop()
			id := t.limited(tt.script)
			t.awaitStatus(id, "STOPPED")
			t.removeTask(id, tt.status)
			want := []string{"/tasks/create", "/tasks/start"}
			for range tt.kills {
				want = append(want, "/tasks/oom")
			}
			want = append(want, "/tasks/exit", "/tasks/delete")
			err = events.Stdout.Await(t.ctx, "the last event", func(s string) bool {
				return slices.Contains(topics(s, id), "/tasks/delete")
			})
			if err != nil {
				t.Error(err)
			}
			if got := topics(events.Stdout.String(), id); !slices.Equal(got, want) {
				t.Errorf("events:\n%v, want\n%v", got, want)
			}
		})
	}
}

// TestAContainerOutOfMemoryIsKilled, and the events of both runtimes say why.
func TestAContainerOutOfMemoryIsKilled(t *testing.T) {
	both(t, func(t *test) {
		events, err := node.BeginEvents(t.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		id := t.limited("exec tail /dev/zero")
		// runc's shim loses it when the cgroup is removed first.
		err = events.Stdout.Await(t.ctx, "the event", func(s string) bool {
			return slices.Contains(topics(s, id), "/tasks/oom")
		})
		if err != nil {
			t.Error(err)
		}
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
	})
}
