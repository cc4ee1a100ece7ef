//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"kata/test/harness"
)

func TestBothStreamsArriveEachOnItsOwn(t *testing.T) {
	both(t, func(t *test) {
		r := t.succeed(t.sh("echo to stdout; echo to stderr >&2"))
		t.wantOutput(r, "to stdout\n", "to stderr\n")
	})
}

func TestExitStatusIsThatOfTheProcess(t *testing.T) {
	for _, code := range []int{0, 1, 42} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			both(t, func(t *test) {
				r := node.Run(t.ctx, t.sh(fmt.Sprintf("exit %d", code)))
				t.wantCode(r, code)
				t.wantOutput(r, "", "")
			})
		})
	}
}

func TestSIGKILLEndsAContainerWith137(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("echo ready; exec sleep 1000")
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")
		t.ctr("tasks", "kill", "--signal", "SIGKILL", c.ID)
		t.wantCode(run.Wait(), 137)
	})
}

func TestSIGTERMReachesAHandler(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh(`trap 'echo handled; exit 7' TERM; echo ready; while :; do sleep 1; done`)
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")
		t.ctr("tasks", "kill", c.ID) // SIGTERM is ctr's default
		r := run.Wait()
		t.wantCode(r, 7)
		t.wantOutput(r, "ready\nhandled\n", "")
	})
}

// A PID 1 without a handler does not see SIGTERM (pid_namespaces(7)), and
// nobody turns it into SIGKILL.
func TestSIGTERMIsIgnoredByAPID1WithoutAHandler(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("echo ready; exec cat")
		input := newInput(t)
		c.Stdin = input.read
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")
		t.ctr("tasks", "kill", "--signal", "SIGTERM", c.ID)
		input.say("still here\n")
		t.awaitOutput(run.Stdout, "still here")
		if status, err := node.Status(t.ctx, c.ID); err != nil || status != "RUNNING" {
			t.Errorf("after SIGTERM the task is %q (%v), want RUNNING", status, err)
		}
		t.ctr("tasks", "kill", "--signal", "SIGKILL", c.ID)
		t.wantCode(run.Wait(), 137)
	})
}

func TestSIGTERMEndsAnExecWith143(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		exec := node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", "echo ready; exec sleep 1000"}}, "e1")
		t.awaitOutput(exec.Stdout, "ready")
		t.ctr("tasks", "kill", "--exec-id", "e1", "--signal", "SIGTERM", id)
		t.wantCode(exec.Wait(), 143)
		t.awaitStatus(id, "RUNNING")
	})
}

func TestCommandThatDoesNotExistIsNamedInTheError(t *testing.T) {
	code := make(map[string]int)
	both(t, func(t *test) {
		c := t.container("/no/such/command")
		r := node.Run(t.ctx, c)
		code[t.runtime] = r.Code
		if !strings.Contains(r.Stderr, "/no/such/command") || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("stderr %q, want one line that names /no/such/command", r.Stderr)
		}
	})
	if *onlyRuntime == "" && code[harness.Kata] != code[harness.Runc] {
		t.Errorf("exit status %d with kata, %d with runc", code[harness.Kata], code[harness.Runc])
	}
}

func TestExecOfACommandThatDoesNotExistLeavesTheContainerAlone(t *testing.T) {
	code := make(map[string]int)
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		r := node.Exec(t.ctx, id, "e1", "/no/such/command")
		code[t.runtime] = r.Code
		if !strings.Contains(r.Stderr, "/no/such/command") {
			t.Errorf("stderr %q, want one line that names /no/such/command", r.Stderr)
		}
		t.wantOutput(t.exec(id, "e2", "echo", "alive"), "alive\n", "")
	})
	if *onlyRuntime == "" && code[harness.Kata] != code[harness.Runc] {
		t.Errorf("exit status %d with kata, %d with runc", code[harness.Kata], code[harness.Runc])
	}
}

func TestTerminalHasTheSizeOfTheUsersAndFollowsIt(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh(`trap 'stty size' WINCH; stty size; tty; while :; do sleep 0.1; done`)
		terminal, err := node.BeginTerminal(t.ctx, c, 33, 101)
		if err != nil {
			t.Fatal(err)
		}
		t.awaitOutput(terminal.Stdout, "33 101") // set by ctr just after the start
		// ctr listens for changes a little later: change until it does.
		err = harness.Await(t.ctx, "the new size", func() (bool, error) {
			err := errors.Join(terminal.Resize(49, 131), terminal.Resize(50, 132))
			return strings.Contains(terminal.Stdout.String(), "50 132"), err
		})
		if err != nil {
			t.Fatal(err, terminal.Stdout)
		}
		t.ctr("tasks", "kill", "--signal", "SIGKILL", c.ID)
		t.wantCode(terminal.Wait(), 137)
	})
}

func TestTerminalEchoesAndPassesControlC(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh(`trap 'echo interrupted; exit 9' INT; echo ready; cat; exit 3`)
		terminal, err := node.BeginTerminal(t.ctx, c, 24, 80)
		if err != nil {
			t.Fatal(err)
		}
		t.awaitOutput(terminal.Stdout, "ready")
		if err := terminal.Type("typed\n"); err != nil {
			t.Fatal(err)
		}
		t.awaitOutput(terminal.Stdout, "typed\ntyped") // echo, then cat
		if err := terminal.Type("\x03"); err != nil {
			t.Fatal(err)
		}
		t.awaitOutput(terminal.Stdout, "interrupted")
		t.wantCode(terminal.Wait(), 9)
	})
}

func TestExecGetsATerminalOfItsOwn(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		r := node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", "tty; test -t 0 || echo none"}}, "e1").Wait()
		t.wantOutput(r, "not a tty\nnone\n", "")
	})
}
