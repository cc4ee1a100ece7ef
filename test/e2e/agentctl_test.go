//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata/test/harness"
)

// agentctl runs kata-agent-ctl.
func (t *test) agentctl(args ...string) harness.Result {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.ctx, filepath.Join(repo.Bin(), "kata-agent-ctl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	r := harness.Result{Args: args, Stdout: out.String(), Stderr: errs.String(), Err: err}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		r.Code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAgentOfARunningPodIsFoundByItsID(t *testing.T) {
	kata(t, "kata", func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		r := t.agentctl("connect", "--sandbox", id, "-c", "Check", "-c", "ListProcesses format=table cid="+id,
			"-c", `ExecProcess exec_id=e args="echo from outside"`, "-c", "WaitProcess exec_id=e", "-c", "ReadStdout exec_id=e")
		if r.Code != 0 || !strings.Contains(r.Stdout, "SERVING") || !strings.Contains(r.Stdout, "sleep 1000") || !strings.Contains(r.Stdout, "from outside") {
			t.Errorf("kata-agent-ctl says %q: %v", r.Stdout, r.Failure())
		}
		for _, name := range []string{harness.Namespace + "/" + id, id[:len(id)-1]} {
			if r := t.agentctl("connect", "--sandbox", name, "-c", "Check"); r.Code != 0 || r.Stdout != "status: SERVING\n" {
				t.Errorf("by %s: %q, %v", name, r.Stdout, r.Failure())
			}
		}
		r = t.agentctl("connect", "--sandbox", "nobody", "-c", "Check")
		if r.Code != 1 || !strings.Contains(r.Stderr, "sandbox nobody: there is no such pod on this host") || !strings.Contains(r.Stderr, id) {
			t.Errorf("an unknown pod: %v", r.Failure())
		}
		r = t.agentctl("connect", "--sandbox", id, "-c", "StartContainer cid=nobody")
		if want := "StartContainer at sandbox " + harness.Namespace + "/" + id + ": NotFound"; r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("a failure is %v, want %q", r.Failure(), want)
		}
		socket := filepath.Join("/run/kata", id, "agent.sock")
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket has mode %v, %v", info, err)
		}
		// The pod goes though somebody is connected, and takes the connection along.
		waiting := exec.CommandContext(t.ctx, "kata-agent-ctl", "connect", "--sandbox", id, "-c", "WaitProcess cid="+id)
		repo, err := harness.Repository()
		if err != nil {
			t.Fatal(err)
		}
		waiting.Path = filepath.Join(repo.Bin(), "kata-agent-ctl")
		waiting.Err = nil
		if err := waiting.Start(); err != nil {
			t.Fatal(err)
		}
		t.ctr("tasks", "kill", "--signal", "SIGKILL", id)
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
		_ = waiting.Wait()
		if r := t.agentctl("connect", "--sandbox", id, "-c", "Check"); r.Code != 1 || !strings.Contains(r.Stderr, "there is no such pod") {
			t.Errorf("after its end: %v", r.Failure())
		}
	})
}
