package task

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWhatIsPossibleInWhichState(t *testing.T) {
	states := []state{created, running, pausing, paused, stopped, deleted}
	// A column for each state: what the action leads to; a dot is refused.
	container := `
start       running .       .       .       .       .
exec        created running .       .       .       .
startExec   created running .       .       .       .
pause       .       pausing .       .       .       .
frozen      .       .       paused  .       .       .
thawed      .       .       running .       .       .
resume      .       .       .       running .       .
kill        created running pausing paused  .       .
update      created running .       paused  .       .
measure     created running pausing paused  .       .
list        created running pausing paused  .       .
resize      created running pausing paused  .       .
closeIO     created running pausing paused  stopped .
remove      deleted .       .       .       deleted .
exit        stopped stopped stopped stopped .       .`
	exec := `
start       running .       .       .       .       .
exec        .       .       .       .       .       .
startExec   .       .       .       .       .       .
pause       .       .       .       .       .       .
frozen      .       .       .       .       .       .
thawed      .       .       .       .       .       .
resume      .       .       .       .       .       .
kill        .       running .       .       .       .
update      .       .       .       .       .       .
measure     .       .       .       .       .       .
list        .       .       .       .       .       .
resize      created running .       .       .       .
closeIO     created running .       .       stopped .
remove      deleted .       .       .       deleted .
exit        stopped stopped .       .       .       .`
	for name, c := range map[string]struct {
		life lifecycle
		want string
	}{"container": {containerLife(), container}, "exec": {execLife(), exec}} {
		for line := range strings.Lines(strings.TrimSpace(c.want)) {
			fields := strings.Fields(line)
			a := actionNamed(t, fields[0])
			for i, s := range states {
				got, err := c.life.next("container c1", s, a)
				if want := fields[i+1]; want != "." && (err != nil || string(got) != want) || want == "." && err == nil {
					t.Errorf("%s: %s when %s leads to %s, %v; want %s", name, fields[0], s, got, err, want)
				}
			}
		}
	}
}

func actionNamed(t *testing.T, name string) action {
	t.Helper()
	a, ok := map[string]action{
		"start": start, "exec": exec, "startExec": startExec, "pause": pause, "frozen": frozen, "thawed": thawed,
		"resume": resume, "kill": kill, "update": update, "measure": measure, "list": list, "resize": resize,
		"closeIO": closeIO, "remove": remove, "exit": exit,
	}[name]
	if !ok {
		t.Fatalf("no action %s", name)
	}
	return a
}

func TestRefusalsSayWhy(t *testing.T) {
	_, err := containerLife().next("container c1", running, remove)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cannot delete container c1: it is running") {
		t.Errorf("delete of a running container: %v", err)
	}
	_, err = containerLife().next("container c1", stopped, kill)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "process already finished") {
		t.Errorf("signal to a stopped container: %v", err)
	}
}
