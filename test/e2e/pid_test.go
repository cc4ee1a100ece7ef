//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata/test/harness"
)

// What clients do with the pid of a task: they take it for the container's first
// process, and look at it through /proc.

// pid is what containerd tells as the task's pid.
func (t *test) pid(id string) int {
	t.Helper()
	for line := range strings.Lines(t.ctr("tasks", "ls").Stdout) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("there is no task %s", id)
	return 0
}

// proc is the path of a file of a process in /proc.
func proc(pid int, name ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, name...)...)
}

func (t *test) link(path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestThePidShowsTheContainersFiles(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("echo made in the container >/tmp/made; exec sleep 1000"))
		pid := t.pid(id)
		err := harness.Await(t.ctx, "the container's file", func() (bool, error) {
			b, err := os.ReadFile(proc(pid, "root/tmp/made"))
			if errors.Is(err, os.ErrNotExist) {
				return false, nil
			}
			return string(b) == "made in the container\n", err
		})
		if err != nil {
			t.Error(err)
		}
		for _, way := range []string{"root", "cwd"} {
			name := "copied-" + id + "-" + way
			if err := os.WriteFile(proc(pid, way, "tmp", name), []byte("copied in"), 0o644); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join("/tmp", name)); err == nil {
				t.Errorf("a copy into the container's /tmp is in the host's (%s)", way)
				_ = os.Remove(filepath.Join("/tmp", name))
			}
			t.wantOutput(t.exec(id, "cat-"+way, "cat", "/tmp/"+name), "copied in", "")
		}
	})
}

func TestThePidOfAReadonlyContainerShowsItReadonly(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("exec sleep 1000")
		c.Flags = append(c.Flags, "--read-only")
		pid := t.pid(t.detach(c))
		if err := os.WriteFile(proc(pid, "root/tmp/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("a copy into it: %v, want EROFS", err)
		}
	})
}

func TestThePidHasANetworkNamespaceOfItsOwn(t *testing.T) {
	both(t, func(t *test) {
		pid := t.pid(t.detach(t.sh("exec sleep 1000")))
		if own := t.link("/proc/self/ns/net"); own == t.link(proc(pid, "ns/net")) {
			t.Error("it is in the host's network namespace")
		}
	})
}

func TestThePidIsInTheContainersCgroup(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		b, err := os.ReadFile(proc(t.pid(id), "cgroup"))
		if err != nil || !strings.Contains(string(b), "/"+harness.Namespace+"/"+id+"\n") {
			t.Errorf("its cgroups are\n%s, %v", b, err)
		}
	})
}

func TestAPidThatIsKilledKillsTheContainer(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		if err := syscall.Kill(t.pid(id), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
	})
}

// An exec's pid is its own; when that is killed the container goes on.
func TestAnExecHasAPidOfItsOwn(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		exec := node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", "echo ready; exec sleep 1000"}}, "e1")
		t.awaitOutput(exec.Stdout, "ready")
		pids := t.pids(id)
		if len(pids) != 2 || pids[0] == pids[1] || pids[0] != t.pid(id) {
			t.Fatalf("the container's processes are %v, the first one's pid is %d", pids, t.pid(id))
		}
		if err := syscall.Kill(pids[1], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		t.wantCode(exec.Wait(), 137)
		t.wantOutput(t.exec(id, "e2", "echo", "alive"), "alive\n", "")
	})
}

// pids is what `ctr task ps` lists.
func (t *test) pids(id string) []int {
	t.Helper()
	var pids []int
	for line := range strings.Lines(t.ctr("tasks", "ps", id).Stdout) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Who has been told of the exit does not find the pid any more.
func TestAPidThatIsThereMeansAContainerThatIs(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("read x </dev/zero; exec sleep 1000"))
		pid := t.pid(id)
		if _, err := os.Stat(proc(pid)); err != nil {
			t.Error(err)
		}
		t.ctr("tasks", "kill", "-s", "KILL", id)
		t.awaitStatus(id, "STOPPED")
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the container has stopped, its pid %d is there: %v", pid, err)
		}
	})
}

func TestThePidGoesWithTheShim(t *testing.T) {
	kata(t, "kata", func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		pid := t.pid(id)
		t.kill(id, shim)
		err := harness.Await(t.ctx, "the pid to go", func() (bool, error) {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH), nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What a process without privileges is to Linux (proc_pid_status(5)).
func TestThePidHasNoPrivileges(t *testing.T) {
	kata(t, "kata", func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		b, err := os.ReadFile(proc(t.pid(id), "status"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(b), "\n"+want+"\n") {
				t.Errorf("it is not %q:\n%s", want, b)
			}
		}
		if line, err := os.ReadFile(proc(t.pid(id), "cmdline")); err != nil || string(line) != "kata:"+id+"\x00" {
			t.Errorf("its command line is %q, %v", line, err)
		}
	})
}
