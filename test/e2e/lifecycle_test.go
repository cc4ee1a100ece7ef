//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kata/test/harness"
)

func TestTenExecsAtOnceEachGetTheirOwnOutputAndStatus(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		results := concurrently(10, func(i int) harness.Result {
			script := fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i)
			return node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", script}}, fmt.Sprint("e", i)).Wait()
		})
		for i, r := range results {
			t.wantCode(r, i)
			t.wantOutput(r, fmt.Sprintf("out %d\n", i), fmt.Sprintf("err %d\n", i))
		}
	})
}

// concurrently calls f with 0 to n-1, all at once, and returns what they did.
func concurrently(n int, f func(int) harness.Result) []harness.Result {
	results := make([]harness.Result, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { results[i] = f(i) })
	}
	all.Wait()
	return results
}

func TestPausedContainerDoesNothingUntilResumed(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("echo ready; exec cat")
		input := newInput(t)
		c.Stdin = input.read
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")

		t.ctr("tasks", "pause", c.ID)
		t.awaitStatus(c.ID, "PAUSED")
		input.say("said while paused\n")
		// Three questions to the shim are time enough for a running cat.
		for range 3 {
			t.awaitStatus(c.ID, "PAUSED")
		}
		if out := run.Stdout.String(); out != "ready\n" {
			t.Errorf("a paused container wrote %q", out)
		}
		t.ctr("tasks", "resume", c.ID)
		t.awaitStatus(c.ID, "RUNNING")
		t.awaitOutput(run.Stdout, "said while paused")
		input.end()
		t.wantCode(run.Wait(), 0)
	})
}

func TestMetricsShowCPUAndMemory(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("dd if=/dev/zero of=/dev/null bs=1M count=100 2>/dev/null; exec sleep 1000"))
		values, err := node.Metrics(t.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		// cgroup v1 and v2 have different names for the same.
		for _, names := range [][]string{{"cpuacct.usage", "cpu.usage_usec"}, {"memory.usage_in_bytes", "memory.usage"}} {
			value := values[names[0]] + values[names[1]]
			if n, err := strconv.ParseUint(value, 10, 64); err != nil || n == 0 {
				t.Errorf("%s is %q, want a number above 0; all metrics: %v", strings.Join(names, " or "), value, values)
			}
		}
	})
}

func TestKillAllReachesEveryProcessOfTheContainer(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		exec := node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", "echo ready; exec sleep 1000"}}, "e1")
		t.awaitOutput(exec.Stdout, "ready")
		t.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", id)
		t.wantCode(exec.Wait(), 137)
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
	})
}

func TestExecDiesWithItsContainer(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("echo ready; read line; exit 8")
		input := newInput(t)
		c.Stdin = input.read
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")
		exec := node.BeginExec(t.ctx, harness.Container{ID: c.ID, Args: []string{"/bin/sh", "-c", "echo ready; exec sleep 1000"}}, "e1")
		t.awaitOutput(exec.Stdout, "ready")
		input.say("leave\n")
		t.wantCode(run.Wait(), 8)
		if r := exec.Wait(); r.Code == 0 {
			t.Errorf("the exec ended with 0 though it was killed")
		}
	})
}

func TestTaskCanBeStartedAgainInTheSameContainer(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exit 11"))
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 11)
		r := node.Ctr(t.ctx, "tasks", "start", "--fifo-dir", node.Dir()+"/fifo", id)
		t.wantCode(r, 11)
	})
}

func TestFirstProcessOfAContainerIsListed(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		r := t.ctr("tasks", "ps", id)
		if strings.Count(r.Stdout, "\n") != 2 { // a heading and one
			t.Errorf("ctr tasks ps:\n%s", r.Stdout)
		}
	})
}

func TestTwoContainersSideBySideDoNotSeeEachOther(t *testing.T) {
	both(t, func(t *test) {
		first := t.detach(t.sh("echo first >/tmp/mark; exec sleep 1000"))
		second := t.detach(t.sh("echo second >/tmp/mark; exec sleep 1000"))
		for id, mark := range map[string]string{first: "first\n", second: "second\n"} {
			err := harness.Await(t.ctx, "the mark", func() (bool, error) {
				return node.Exec(t.ctx, id, node.NewID("e"), "cat", "/tmp/mark").Stdout == mark, nil
			})
			if err != nil {
				t.Error(err)
			}
			ps := t.exec(id, "e2", "ps", "-o", "args")
			if n := strings.Count(ps.Stdout, "sleep 1000"); n != 1 {
				t.Errorf("%d sleeping processes are seen, want 1:\n%s", n, ps.Stdout)
			}
		}
		t.ctr("tasks", "kill", "--signal", "SIGKILL", first)
		t.awaitStatus(first, "STOPPED")
		t.awaitStatus(second, "RUNNING")
		t.wantOutput(t.exec(second, "e3", "cat", "/tmp/mark"), "second\n", "")
	})
}

func TestTwentyStartedInParallelAllRun(t *testing.T) {
	both(t, func(t *test) {
		containers := make([]harness.Container, 20)
		for i := range containers {
			containers[i] = t.sh(fmt.Sprintf("echo number %d; exit %d", i, i))
		}
		results := concurrently(len(containers), func(i int) harness.Result { return node.Run(t.ctx, containers[i]) })
		for i, r := range results {
			t.wantCode(r, i)
			t.wantOutput(r, fmt.Sprintf("number %d\n", i), "")
		}
	})
}

func TestTasksOutliveARestartOfContainerd(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("echo before >/tmp/mark; exec sleep 1000"))
		if err := node.Restart(t.ctx); err != nil {
			t.Fatal(err)
		}
		t.awaitStatus(id, "RUNNING")
		t.wantOutput(t.exec(id, "e1", "cat", "/tmp/mark"), "before\n", "")
		t.ctr("tasks", "kill", "--signal", "SIGKILL", id)
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
	})
}

func TestAttachSeesTheOutputOfARunningContainer(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("while echo still here; do sleep 0.1; done")
		t.Cleanup(func() { t.clear(c.ID) })
		if r := node.DetachWithStreams(t.ctx, c); r.Err != nil {
			t.Fatal(r.Failure())
		}
		attached := node.BeginAttach(t.ctx, c.ID, nil)
		t.awaitOutput(attached.Stdout, "still here")
		t.ctr("tasks", "kill", "--signal", "SIGKILL", c.ID)
		t.wantCode(attached.Wait(), 137)
	})
}
