//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kata/test/harness"
	"kata/test/pace"
)

// What a pod is made of, by the names their programs start with.
var (
	qemu      = []string{"qemu-system"}
	virtiofsd = []string{"virtiofsd"}
	shim      = []string{"containerd-shim"}
)

var victims = []struct {
	name    string
	program []string
}{
	{"QEMU", qemu},
	{"virtiofsd", virtiofsd},
	{"the shim", shim},
}

// kill kills the container's process of that name once it is there.
func (t *test) kill(id string, program []string) harness.Process {
	t.Helper()
	p, err := node.AwaitProcess(t.ctx, id, program...)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	return p
}

// killUntilDone kills the container's processes of that name until ctr has
// ended: a shim begins with a process that ends by itself, and a kill that
// meets only that one is no fault. The shim that cleans up may live.
func (t *test) killUntilDone(run *harness.Running, id string, program []string) harness.Result {
	t.Helper()
	err := harness.Await(t.ctx, "ctr to end", func() (bool, error) {
		select {
		case <-run.Done():
			return true, nil
		default:
		}
		for _, p := range node.Processes(id) {
			named := slices.ContainsFunc(program, func(prefix string) bool { return strings.HasPrefix(p.Program(), prefix) })
			if !named || p.Args[len(p.Args)-1] == "delete" {
				continue
			}
			if err := p.Kill(); err != nil {
				return false, err
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return run.Wait()
}

// clear removes what is left of a container in containerd's books, as its user
// would, after the runtime has lost it.
func (t *test) clear(id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(leakLimit))
	defer cancel()
	if err := node.Remove(ctx, id); err != nil && !strings.Contains(err.Error(), "not found") {
		t.Error(err)
	}
}

func TestTaskEndsWithAnErrorWhenAPartOfItsPodIsKilled(t *testing.T) {
	for _, victim := range victims {
		kata(t, victim.name, func(t *test) {
			c := t.sh("echo ready; exec sleep 1000")
			run := node.Begin(t.ctx, c)
			t.awaitOutput(run.Stdout, "ready")
			killed := time.Now()
			t.kill(c.ID, victim.program)
			r := run.Wait()
			if r.Code == 0 {
				t.Errorf("ctr ended with 0 though %s was killed", victim.name)
			}
			if took := time.Since(killed); took > promptly {
				t.Errorf("ctr ended %v after %s was killed", took, victim.name)
			}
			t.clear(c.ID)
		})
	}
}

func TestDetachedTaskIsStoppedAndRemovableWhenAPartOfItsPodIsKilled(t *testing.T) {
	for _, victim := range victims {
		kata(t, victim.name, func(t *test) {
			c := t.sh("exec sleep 1000")
			if r := node.Detach(t.ctx, c); r.Err != nil {
				t.Fatal(r.Failure())
			}
			t.kill(c.ID, victim.program)
			err := harness.Await(t.ctx, "the task to stop", func() (bool, error) {
				status, err := node.Status(t.ctx, c.ID)
				// containerd forgets a task whose shim has died.
				return status == "STOPPED" || status == "", err
			})
			if err != nil {
				t.Error(err)
			}
			if status, err := node.Status(t.ctx, c.ID); err == nil && status == "STOPPED" {
				t.removeTask(c.ID, 137)
			}
			t.ctr("containers", "rm", c.ID)
		})
	}
}

func TestExecEndsWithAnErrorWhenAPartOfThePodIsKilled(t *testing.T) {
	for _, victim := range victims {
		kata(t, victim.name, func(t *test) {
			c := t.sh("exec sleep 1000")
			if r := node.Detach(t.ctx, c); r.Err != nil {
				t.Fatal(r.Failure())
			}
			exec := node.BeginExec(t.ctx, harness.Container{ID: c.ID, Args: []string{"/bin/sh", "-c", "echo ready; exec sleep 1000"}}, "e1")
			t.awaitOutput(exec.Stdout, "ready")
			t.kill(c.ID, victim.program)
			if r := exec.Wait(); r.Code == 0 {
				t.Errorf("the exec ended with 0 though %s was killed", victim.name)
			}
			t.clear(c.ID)
		})
	}
}

// A start is a sequence of steps, and the fault may come at any of them: at
// once when the process appears, and then later and later.
func TestStartFailsWhenAPartOfThePodIsKilledMeanwhile(t *testing.T) {
	for _, victim := range victims {
		for _, later := range []time.Duration{0, 50, 150, 300, 500, 800} {
			later *= time.Millisecond
			kata(t, fmt.Sprintf("%s after %v", victim.name, later), func(t *test) {
				c := t.sh("exec sleep 1000")
				run := node.Begin(t.ctx, c)
				if _, err := node.AwaitProcess(t.ctx, c.ID, victim.program...); err != nil {
					t.Fatal(err)
				}
				select {
				case <-time.After(later): // the moment of the fault
				case <-run.Done():
				}
				killed := time.Now()
				if r := t.killUntilDone(run, c.ID, victim.program); r.Code == 0 {
					t.Errorf("ctr ended with 0 though %s was killed", victim.name)
				}
				if took := time.Since(killed); took > promptly {
					t.Errorf("ctr ended %v after %s was killed", took, victim.name)
				}
				t.clear(c.ID)
				if victim.name == "the shim" {
					// containerd 1.6 has nobody clean up after a shim that it has not
					// spoken to yet; the next pod does.
					t.wantOutput(t.succeed(t.sh("echo well")), "well\n", "")
				}
			})
		}
	}
}

func TestOtherPodsLiveOnWhenOneIsKilled(t *testing.T) {
	kata(t, "kata", func(t *test) {
		survivor := t.detach(t.sh("exec sleep 1000"))
		victim := t.sh("exec sleep 1000")
		if r := node.Detach(t.ctx, victim); r.Err != nil {
			t.Fatal(r.Failure())
		}
		t.kill(victim.ID, qemu)
		t.awaitStatus(victim.ID, "STOPPED")
		t.clear(victim.ID)
		t.wantOutput(t.exec(survivor, "e1", "echo", "alive"), "alive\n", "")
	})
}

func TestEveryPartOfAPodGoesWhenItsShimIsKilled(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.sh("exec sleep 1000")
		if r := node.Detach(t.ctx, c); r.Err != nil {
			t.Fatal(r.Failure())
		}
		t.kill(c.ID, shim)
		err := harness.Await(t.ctx, "QEMU and virtiofsd to end", func() (bool, error) {
			return len(node.Processes(c.ID)) == 0, nil
		})
		if err != nil {
			t.Errorf("%v: %v", err, node.Processes(c.ID))
		}
		t.clear(c.ID)
	})
}

func TestPodEndsWithItsShimThoughContainerdIsAway(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.sh("exec sleep 1000")
		if r := node.Detach(t.ctx, c); r.Err != nil {
			t.Fatal(r.Failure())
		}
		p, err := node.AwaitProcess(t.ctx, c.ID, shim...)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.RestartAfter(t.ctx, p.Kill); err != nil {
			t.Fatal(err)
		}
		t.clear(c.ID) // containerd cleans up what it finds dead at its start
	})
}

func TestContainerdKilledDuringAStartLeavesNothingThatItDoesNotKnow(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.sh("exec sleep 1000")
		run := node.Begin(t.ctx, c)
		if _, err := node.AwaitProcess(t.ctx, c.ID, qemu...); err != nil {
			t.Fatal(err)
		}
		if err := node.Restart(t.ctx); err != nil {
			t.Fatal(err)
		}
		if r := run.Wait(); r.Code == 0 {
			t.Error("ctr ended with 0 though containerd was killed")
		}
		t.clear(c.ID)
	})
}

// Clean-up after a crash releases what the journal lists and removes nothing else:
// least of all what is in a volume.
func TestVolumesKeepTheirFilesWhenAPartOfThePodIsKilled(t *testing.T) {
	for _, victim := range victims {
		kata(t, victim.name, func(t *test) {
			volume := t.TempDir()
			kept := filepath.Join(volume, "kept")
			if err := os.WriteFile(kept, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			c := t.sh("echo guest >/data/from; exec sleep 1000")
			c.Flags = []string{"--mount", "type=bind,src=" + volume + ",dst=/data,options=rbind:rw"}
			if r := node.Detach(t.ctx, c); r.Err != nil {
				t.Fatal(r.Failure())
			}
			err := harness.Await(t.ctx, "the guest to write", func() (bool, error) {
				b, err := os.ReadFile(filepath.Join(volume, "from"))
				return err == nil && string(b) == "guest\n", nil
			})
			if err != nil {
				t.Error(err)
			}
			state := filepath.Join("/run/kata", c.ID)
			if _, err := os.Stat(filepath.Join(state, "journal")); err != nil {
				t.Errorf("the pod has no journal: %v", err)
			}
			t.kill(c.ID, victim.program)
			err = harness.Await(t.ctx, "the task to stop", func() (bool, error) {
				status, err := node.Status(t.ctx, c.ID)
				return status != "RUNNING", err
			})
			if err != nil {
				t.Error(err)
			}
			t.clear(c.ID)
			err = harness.Await(t.ctx, "the pod's state to go", func() (bool, error) {
				_, err := os.Stat(state)
				return errors.Is(err, fs.ErrNotExist), nil
			})
			if err != nil {
				journal, _ := os.ReadFile(filepath.Join(state, "journal"))
				t.Errorf("%v: %s", err, journal)
			}
			if b, err := os.ReadFile(kept); err != nil || string(b) != "precious" {
				t.Errorf("the volume's file holds %q, %v", b, err)
			}
		})
	}
}

// containerd's own call to a shim can be cut off, when nobody takes the output of a
// container whose client was killed. It keeps its connection then and never asks for
// the end.
func TestAShimThatNobodyToldToEndEnds(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.sh("while :; do echo flooding the terminal; done")
		terminal, err := node.BeginTerminal(t.ctx, c, 24, 80)
		if err != nil {
			t.Fatal(err)
		}
		t.awaitOutput(terminal.Stdout, "flooding")
		server, err := node.AwaitProcess(t.ctx, c.ID, shim...)
		if err != nil {
			t.Fatal(err)
		}
		terminal.Stop()
		terminal.Wait()
		// Any of these may be told that another was first; what counts is what is left.
		for _, args := range [][]string{{"tasks", "kill", "--all", "--signal", "SIGKILL", c.ID}, {"tasks", "rm", "--force", c.ID}, {"containers", "rm", c.ID}} {
			if r := node.Ctr(t.ctx, args...); r.Err != nil {
				t.Log(r.Failure())
			}
		}
		deleted := time.Now()
		if err := harness.Await(t.ctx, "the shim's end", func() (bool, error) { return !server.Alive(), nil }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(deleted); took > time.Minute+promptly {
			t.Errorf("the shim ended %v after its container was removed", took)
		}
		if r := node.Ctr(t.ctx, "containers", "info", c.ID); r.Err == nil {
			t.clear(c.ID)
			t.Error("the container could not be removed")
		}
	})
}
