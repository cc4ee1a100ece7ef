package hook

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/hook.")) }

// shell is a hook that runs a script.
func shell(script string, args ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: append([]string{"sh", "-c", script, "hook"}, args...)}
}

func state(t *testing.T) specs.State {
	return specs.State{
		Version: specs.Version, ID: "c1", Status: specs.StateCreating, Pid: 4711, Bundle: t.TempDir(),
		Annotations: map[string]string{"a": "b"},
	}
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAHookGetsTheStateItsArgumentsAndItsEnvironment(t *testing.T) {
	s := state(t)
	t.Setenv("OF_THE_SHIM", "secret")
	h := shell(`cat >state; pwd >dir; echo "$1" >arg; /usr/bin/env >env`, "one two")
	h.Env = []string{"NAME=value of it", "PATH=/bin"}
	if err := (Runner{}).Run(t.Context(), CreateRuntime, []specs.Hook{h}, s); err != nil {
		t.Fatal(err)
	}
	var got specs.State
	if err := json.Unmarshal([]byte(content(t, s.Bundle, "state")), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if dir, arg := content(t, s.Bundle, "dir"), content(t, s.Bundle, "arg"); dir != s.Bundle+"\n" || arg != "one two\n" {
		t.Errorf("it ran in %q with %q", dir, arg)
	}
	if env := content(t, s.Bundle, "env"); !strings.Contains(env, "NAME=value of it\n") || strings.Contains(env, "OF_THE_SHIM") {
		t.Errorf("its environment is\n%s", env)
	}
	// Without arguments it has its path; without an environment it has none.
	script := filepath.Join(s.Bundle, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho $0 >name\ntr '\\0' '\\n' </proc/$$/environ >env\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (Runner{}).Run(t.Context(), Prestart, []specs.Hook{{Path: script}}, s); err != nil {
		t.Fatal(err)
	}
	if name, env := content(t, s.Bundle, "name"), content(t, s.Bundle, "env"); name != script+"\n" || env != "" {
		t.Errorf("it is called %q with the environment %q", name, env)
	}
}

func TestTheFirstHookThatFailsIsTheLast(t *testing.T) {
	s := state(t)
	hooks := []specs.Hook{shell("echo 1 >>ran"), shell("echo 2 >>ran; echo this will not do >&2; exit 5"), shell("echo 3 >>ran")}
	err := (Runner{}).Run(t.Context(), CreateRuntime, hooks, s)
	if err == nil || err.Error() != "createRuntime hook /bin/sh: exit status 5: this will not do" {
		t.Errorf("error %v", err)
	}
	if ran := content(t, s.Bundle, "ran"); ran != "1\n2\n" {
		t.Errorf("there ran %q", ran)
	}
	if err := (Runner{}).RunAll(t.Context(), Poststop, hooks, s); err == nil || !strings.Contains(err.Error(), "exit status 5") {
		t.Errorf("error of all: %v", err)
	}
	if ran := content(t, s.Bundle, "ran"); ran != "1\n2\n1\n2\n3\n" {
		t.Errorf("with RunAll there ran %q", ran)
	}
	if err := (Runner{}).Run(t.Context(), Prestart, []specs.Hook{{Path: "/no/such"}}, s); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestAHookEndsWithItsTimeAndWithTheContext(t *testing.T) {
	s := state(t)
	one := 1
	h := shell("echo waiting; sleep 600 & sleep 600")
	h.Timeout = &one
	err := (Runner{}).Run(t.Context(), Poststart, []specs.Hook{h}, s)
	if err == nil || err.Error() != "poststart hook /bin/sh: it did not end within 1s and was killed: waiting" {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("the client gave up")
	fifo := filepath.Join(s.Bundle, "fifo")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = os.ReadFile(fifo)
		cancel(gaveUp)
	}()
	h.Timeout = nil
	h.Args[2] = "echo >fifo; " + h.Args[2]
	if err := (Runner{}).Run(ctx, Poststart, []specs.Hook{h, h}, s); !errors.Is(err, gaveUp) {
		t.Errorf("error %v", err)
	}
}

func TestWhatAHookLeavesBehindHoldsNothingUp(t *testing.T) {
	s := state(t)
	h := shell("sleep 600 & echo $! >pid")
	if err := (Runner{}).Run(t.Context(), CreateRuntime, []specs.Hook{h}, s); err != nil {
		t.Error(err)
	}
	pid := strings.TrimSpace(content(t, s.Bundle, "pid"))
	if err := exec.Command("kill", "-9", pid).Run(); err != nil {
		t.Errorf("it was ended with the hook: %v", err)
	}
}

// A hook that mounts something mounts it for the runtime.
func TestHooksRunInTheNamespaceOfTheRuntime(t *testing.T) {
	other := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t tmpfs mine /mnt; echo ready; exec sleep 600")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(filepath.Join("/proc", pidOf(other), "ns/mnt"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	s := state(t)
	h := shell("readlink /proc/self/ns/mnt >ns; cat /proc/self/mounts >mounts")
	if err := (Runner{Mounts: ns}).Run(t.Context(), CreateRuntime, []specs.Hook{h}, s); err != nil {
		t.Fatal(err)
	}
	want, err := os.Readlink(filepath.Join("/proc", pidOf(other), "ns/mnt"))
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, s.Bundle, "ns"); got != want+"\n" || !strings.Contains(content(t, s.Bundle, "mounts"), "mine /mnt") {
		t.Errorf("it ran in %s, want %s", got, want)
	}
}

func pidOf(cmd *exec.Cmd) string { b, _ := json.Marshal(cmd.Process.Pid); return string(b) }

func TestHooksThatCannotBeRunAreRefused(t *testing.T) {
	zero, one := 0, 1
	for want, hooks := range map[string]*specs.Hooks{
		"":                           {CreateRuntime: []specs.Hook{{Path: "/a", Timeout: &one}}},
		"hooks.poststop[1].path \"b": {Poststop: []specs.Hook{{Path: "/a"}, {Path: "b"}}},
		"hooks.startContainer[0].timeout 0 is not above 0": {StartContainer: []specs.Hook{{Path: "/a", Timeout: &zero}}},
	} {
		err := Check(hooks)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if err := Check(nil); err != nil {
		t.Error(err)
	}
}
