//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/harness"
)

// tell is a hook of the host that adds a line to a file: its moment, the status
// it is told, and whether the pid that it is told has a network namespace other
// than its own.
func tell(file, moment, more string) []specs.Hook {
	script := fmt.Sprintf(`state=$(cat); status=$(echo "$state" | sed 's/.*"status": *"\([a-z]*\)".*/\1/')
pid=$(echo "$state" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
net=; [ -z "$pid" ] || [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ] || net=" with a network"
echo "%s $status$net" >>%s; %s`, moment, file, more)
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}}}
}

func hooksThatTell(file string) *specs.Hooks {
	return &specs.Hooks{
		//lint:ignore SA1019 clients still send it
		Prestart: tell(file, "prestart", ""), CreateRuntime: tell(file, "createRuntime", ""),
		Poststart: tell(file, "poststart", ""), Poststop: tell(file, "poststop", ""),
	}
}

func (t *test) told(file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// runc 1.1 tells "created" when it has not yet seen the process run.
	return strings.ReplaceAll(string(b), "poststart created", "poststart running")
}

func TestHooksOfTheHostRunAtTheirMoments(t *testing.T) {
	both(t, func(t *test) {
		file := filepath.Join(t.TempDir(), "told")
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"sleep", "1000"}
			s.Hooks = hooksThatTell(file)
		})
		id := t.detach(c)
		want := "prestart creating with a network\ncreateRuntime creating with a network\npoststart running with a network\n"
		if got := t.told(file); got != want {
			t.Errorf("until the start there ran\n%swant\n%s", got, want)
		}
		t.ctr("tasks", "kill", "-s", "KILL", id)
		t.awaitStatus(id, "STOPPED")
		t.removeTask(id, 137)
		want += "poststop stopped\n"
		if got := t.told(file); got != want {
			t.Errorf("until the deletion there ran\n%swant\n%s", got, want)
		}
	})
}

func TestAHookOfTheHostThatFailsEndsTheContainer(t *testing.T) {
	for _, moment := range []string{"createRuntime", "poststart"} {
		t.Run(moment, func(t *testing.T) {
			both(t, func(t *test) {
				file := filepath.Join(t.TempDir(), "told")
				c := t.fromSpec(func(s *specs.Spec) {
					s.Process.Args = []string{"sleep", "1000"}
					s.Hooks = hooksThatTell(file)
					failing := tell(file, moment, "echo this will not do >&2; exit 5")
					if moment == "poststart" {
						s.Hooks.Poststart = failing
					} else {
						s.Hooks.CreateRuntime = failing
					}
				})
				r := node.Run(t.ctx, c)
				if r.Code == 0 || !strings.Contains(r.Stderr, "exit status 5") || !strings.Contains(r.Stderr, "this will not do") {
					t.Errorf("ctr says %q", r.Stderr)
				}
				t.clear(c.ID)
				if got := t.told(file); !strings.HasSuffix(got, "poststop stopped\n") {
					t.Errorf("there ran\n%s", got)
				}
			})
		})
	}
}

// What a hook mounts it mounts for the host, not for the shim alone.
func TestAHookOfTheHostMountsOnTheHost(t *testing.T) {
	both(t, func(t *test) {
		dir := t.TempDir()
		mount := filepath.Join(dir, "mount")
		if err := os.Mkdir(mount, 0o755); err != nil {
			t.Fatal(err)
		}
		t.detach(t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"sleep", "1000"}
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
				Path: "/bin/sh", Args: []string{"sh", "-c", "mount -t tmpfs of-a-hook " + mount + " && echo hello >" + mount + "/file"},
				Env: []string{"PATH=/bin:/usr/bin:/sbin"},
			}}}
		}))
		pid := node.Pid()
		if b, err := os.ReadFile(proc(pid, "root", mount, "file")); err != nil || string(b) != "hello\n" {
			t.Errorf("containerd sees %q, %v", b, err)
		}
		if r := harness.Nsenter(t.ctx, pid, "umount", mount); r != nil {
			t.Error(r)
		}
	})
}

func TestPoststopHooksRunWhenTheShimWasKilled(t *testing.T) {
	kata(t, "kata", func(t *test) {
		file := filepath.Join(t.TempDir(), "told")
		id := t.detach(t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"sleep", "1000"}
			s.Hooks = hooksThatTell(file)
		}))
		t.kill(id, shim)
		err := harness.Await(t.ctx, "the poststop hook", func() (bool, error) {
			return strings.HasSuffix(t.told(file), "poststop stopped\n"), nil
		})
		if err != nil {
			t.Errorf("%v; there ran\n%s", err, t.told(file))
		}
	})
}

// The hooks of the container's namespaces are the guest's: a program of the host runs
// neither there nor on the host.
func TestCreateContainerHooksDoNotRunOnTheHost(t *testing.T) {
	kata(t, "kata", func(t *test) {
		file := filepath.Join(t.TempDir(), "told")
		name := t.file("of-the-host", []byte("#!/bin/sh\necho ran >>"+file+"\n"))
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"echo", "well"}
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: name}}}
		})
		t.wantOutput(t.succeed(c), "well\n", "")
		if _, err := os.Stat(file); err == nil {
			t.Error("they ran on the host")
		}
	})
}
