//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"

	"kata/test/containerd2"
	"kata/test/harness"
)

// The shim's other audience: a containerd that bootstraps shims by protobuf
// and speaks version 3 of the task service.
func TestContainerd2(t *testing.T) {
	programs, err := containerd2.Build(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	options := harness.Options{
		Containerd:    programs.Containerd,
		Ctr:           programs.Ctr,
		ConfigVersion: 3,
		ShimDirs:      []string{repo.Bin(), programs.ShimDir},
		KataConfig:    repo.KataConfig(nil),
	}
	withNode(t, options, func() {
		t.Run("both streams and exit status", func(t *testing.T) {
			both(t, func(t *test) {
				r := node.Run(t.ctx, t.sh("echo out; echo err >&2; exit 42"))
				t.wantCode(r, 42)
				// On cgroup v1 this ctr begins with a warning of its own.
				if r.Stdout != "out\n" || !strings.HasSuffix(r.Stderr, "err\n") {
					t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
				}
			})
		})
		t.Run("exec, kill and delete", func(t *testing.T) {
			both(t, func(t *test) {
				id := t.detach(t.sh("exec sleep 1000"))
				if r := t.exec(id, "e1", "echo", "from an exec"); r.Stdout != "from an exec\n" {
					t.Errorf("stdout %q", r.Stdout)
				}
				t.wantCode(node.Exec(t.ctx, id, "e2", "/bin/sh", "-c", "exit 3"), 3)
				t.ctr("tasks", "kill", "--signal", "SIGKILL", id)
				t.awaitStatus(id, "STOPPED")
				t.removeTask(id, 137)
			})
		})
		t.Run("pause, resume and metrics", func(t *testing.T) {
			both(t, func(t *test) {
				id := t.detach(t.sh("exec sleep 1000"))
				t.ctr("tasks", "pause", id)
				t.awaitStatus(id, "PAUSED")
				t.ctr("tasks", "resume", id)
				t.awaitStatus(id, "RUNNING")
				if r := t.ctr("tasks", "metrics", id); !strings.Contains(r.Stdout, "memory") {
					t.Errorf("metrics: %s", r.Stdout)
				}
			})
		})
		t.Run("a terminal", func(t *testing.T) {
			both(t, func(t *test) {
				terminal, err := node.BeginTerminal(t.ctx, t.sh("tty; echo ready; read line; echo heard $line"), 24, 80)
				if err != nil {
					t.Fatal(err)
				}
				t.awaitOutput(terminal.Stdout, "ready")
				if err := terminal.Type("this\n"); err != nil {
					t.Fatal(err)
				}
				t.awaitOutput(terminal.Stdout, "heard this")
				t.wantCode(terminal.Wait(), 0)
			})
		})
		t.Run("a restart of containerd", func(t *testing.T) {
			both(t, func(t *test) {
				id := t.detach(t.sh("exec sleep 1000"))
				if err := node.Restart(t.ctx); err != nil {
					t.Fatal(err)
				}
				t.awaitStatus(id, "RUNNING")
				if r := t.exec(id, "e1", "echo", "alive"); r.Stdout != "alive\n" {
					t.Errorf("stdout %q", r.Stdout)
				}
			})
		})
		t.Run("QEMU killed", func(t *testing.T) {
			kata(t, "kata", func(t *test) {
				c := t.sh("echo ready; exec sleep 1000")
				run := node.Begin(t.ctx, c)
				t.awaitOutput(run.Stdout, "ready")
				t.kill(c.ID, qemu)
				if r := run.Wait(); r.Code == 0 {
					t.Error("ctr ended with 0 though QEMU was killed")
				}
				t.clear(c.ID)
			})
		})
	})
}
