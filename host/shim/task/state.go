package task

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// state is where a process is in its life.
type state string

const (
	created state = "created"
	running state = "running"
	pausing state = "pausing"
	paused  state = "paused"
	stopped state = "stopped"
	deleted state = "deleted"
)

// action is what may happen to a process, by request or by itself. Its text is
// the verb of an error.
type action string

const (
	start     action = "start"
	exec      action = "exec in" // register an exec, in a container
	startExec action = "start a process in"
	pause     action = "pause"
	frozen    action = "freeze" // pause has succeeded
	thawed    action = "thaw"   // pause has failed
	resume    action = "resume"
	kill      action = "kill"
	update    action = "update"
	measure   action = "read statistics of"
	list      action = "list processes of"
	resize    action = "resize the terminal of"
	closeIO   action = "close stdin of"
	remove    action = "delete"
	exit      action = "end"
)

// lifecycle is a state machine: what is possible in each state, and the state
// that follows. What is not in it is refused.
type lifecycle map[state]map[action]state

// containerLife is that of a container, which is as its first process is.
func containerLife() lifecycle {
	return lifecycle{
		created: {
			start: running, exec: created, startExec: created, kill: created, update: created, measure: created,
			list: created, resize: created, closeIO: created, remove: deleted, exit: stopped,
		},
		running: {
			exec: running, startExec: running, pause: pausing, kill: running, update: running, measure: running,
			list: running, resize: running, closeIO: running, exit: stopped,
		},
		pausing: {
			frozen: paused, thawed: running, kill: pausing, measure: pausing, list: pausing, resize: pausing,
			closeIO: pausing, exit: stopped,
		},
		paused: {
			resume: running, kill: paused, update: paused, measure: paused, list: paused, resize: paused,
			closeIO: paused, exit: stopped,
		},
		stopped: {closeIO: stopped, remove: deleted},
	}
}

// execLife is that of an exec.
func execLife() lifecycle {
	return lifecycle{
		created: {start: running, resize: created, closeIO: created, remove: deleted, exit: stopped},
		running: {kill: running, resize: running, closeIO: running, exit: stopped},
		stopped: {closeIO: stopped, remove: deleted},
	}
}

// next returns the state that follows when a happens in s, or an error about
// the process named what: not found for a signal that comes too late, as runc
// has it, else a failed precondition.
func (l lifecycle) next(what string, s state, a action) (state, error) {
	if to, ok := l[s][a]; ok {
		return to, nil
	}
	if a == kill && (s == stopped || s == deleted) {
		return s, fmt.Errorf("%s: process already finished: %w", what, errdefs.ErrNotFound)
	}
	return s, fmt.Errorf("cannot %s %s: it is %s: %w", a, what, s, errdefs.ErrFailedPrecondition)
}
