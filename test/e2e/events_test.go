//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// topics returns the topics of the task events that ctr has printed about a
// container, in their order.
func topics(printed, id string) []string {
	var found []string
	for line := range strings.Lines(printed) {
		if !strings.Contains(line, id) {
			continue
		}
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/tasks/") {
				found = append(found, word)
			}
		}
	}
	return found
}

func TestEveryTransitionIsPublishedInOrder(t *testing.T) {
	both(t, func(t *test) {
		events, err := node.BeginEvents(t.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		id := t.detach(t.sh("exec sleep 1000"))
		t.ctr("tasks", "pause", id)
		t.ctr("tasks", "resume", id)
		t.exec(id, "e1", "true")
		t.ctr("tasks", "kill", "--signal", "SIGKILL", id)
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)

		want := []string{
			"/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed",
			"/tasks/exec-added", "/tasks/exec-started", "/tasks/exit",
			"/tasks/exit", "/tasks/delete",
		}
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

func TestDeathOfTheVMIsPublished(t *testing.T) {
	kata(t, "kata", func(t *test) {
		events, err := node.BeginEvents(t.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		c := t.sh("exec sleep 1000")
		if r := node.Detach(t.ctx, c); r.Err != nil {
			t.Fatal(r.Failure())
		}
		t.kill(c.ID, qemu)
		err = events.Stdout.Await(t.ctx, "the exit event", func(s string) bool {
			return slices.Contains(topics(s, c.ID), "/tasks/exit")
		})
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(events.Stdout.String(), "137") {
			t.Errorf("no exit status 137 in %s", events.Stdout)
		}
		t.clear(c.ID)
	})
}
