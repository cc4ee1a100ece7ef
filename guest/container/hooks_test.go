package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/ocipb"
	"kata/guest/fault"
)

// script is a hook that runs a shell script of the guest.
func script(t *testing.T, text string) *ocipb.Hook {
	t.Helper()
	return &ocipb.Hook{Path: busybox(t), Args: []string{"sh", "-c", text}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: 60}
}

// noted is a hook that writes a line about itself to a file: a word, what the
// state says, and whether it sees a name.
func noted(t *testing.T, file, word, name string) *ocipb.Hook {
	bb := busybox(t)
	return script(t, fmt.Sprintf("read -r state; %[1]s test -e %[4]s && sees=sees; echo %[3]s $sees \"$state\" >>%[2]s", bb, file, word, name))
}

// seen is what noted writes.
type seen struct {
	Word  string
	Sees  bool
	State map[string]any
}

func readSeen(t *testing.T, file string) []seen {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []seen
	for line := range strings.Lines(string(text)) {
		word, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		state, sees := strings.CutPrefix(state, "sees ")
		s := seen{Word: word, Sees: sees}
		if err := json.Unmarshal([]byte(state), &s.State); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, s)
	}
	return all
}

// The order, the namespaces and the states that the specification asks for.
func TestHooksOfAWholeLife(t *testing.T) {
	rt := testRuntime(t)
	root := makeRootfs(t)
	dir := t.TempDir() // the guest's, and by a mount the container's too
	file := filepath.Join(dir, "seen")
	inside := "/hooks/seen"
	spec := in(root, "echo program >>/hooks/seen; exec sleep 100000", func(s *ocipb.Spec) {
		s.Annotations = map[string]string{"colour": "blue"}
		s.Mounts = append(s.Mounts, &ocipb.Mount{Destination: "/hooks", Type: "bind", Source: dir, Options: []string{"rbind"}})
		last := noted(t, inside, "startContainer", "/secret")
		last.Path = "/bin/busybox"
		last.Args[2] = strings.ReplaceAll(last.Args[2], busybox(t), "/bin/busybox")
		s.Hooks = &ocipb.Hooks{
			Prestart:        []*ocipb.Hook{noted(t, file, "prestart", dir)},
			CreateRuntime:   []*ocipb.Hook{noted(t, file, "createRuntime1", dir), noted(t, file, "createRuntime2", root+"/hooks/seen")},
			CreateContainer: []*ocipb.Hook{noted(t, file, "createContainer", root+"/hooks/seen")},
			StartContainer:  []*ocipb.Hook{last},
			Poststart:       []*ocipb.Hook{noted(t, file, "poststart", dir)},
			Poststop:        []*ocipb.Hook{noted(t, file, "poststop", dir)},
		}
	})
	c, _, err := create(t, rt, spec)
	if err != nil {
		t.Fatal(err)
	}
	pid := float64(c.Init().PID())
	state := func(status string, pid float64) map[string]any {
		m := map[string]any{
			"ociVersion": "1.1.0", "id": c.ID(), "status": status, "bundle": filepath.Dir(root),
			"annotations": map[string]any{"colour": "blue"},
		}
		if pid != 0 {
			m["pid"] = pid
		}
		return m
	}
	want := []seen{
		{"prestart", true, state("creating", pid)},
		{"createRuntime1", true, state("creating", pid)},
		{"createRuntime2", false, state("creating", pid)}, // the mount is not in the guest's namespace
		{"createContainer", true, state("creating", 1)},
	}
	if diff := cmp.Diff(want, readSeen(t, file)); diff != "" {
		t.Errorf("after creation:\n%s", diff)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// The program and poststart come together, in any order.
	awaitLine(t, file, "program\n")
	if err := removeLine(file, "program\n"); err != nil {
		t.Fatal(err)
	}
	want = append(want, seen{"startContainer", true, state("created", 1)}, seen{"poststart", true, state("running", pid)})
	if diff := cmp.Diff(want, readSeen(t, file)); diff != "" {
		t.Errorf("after the start:\n%s", diff)
	}
	for range 2 {
		if err := c.Destroy(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, seen{"poststop", true, state("stopped", 0)})
	if diff := cmp.Diff(want, readSeen(t, file)); diff != "" {
		t.Errorf("after the end:\n%s", diff)
	}
}

// awaitLine waits until a file holds a line.
func awaitLine(t *testing.T, file, line string) {
	t.Helper()
	ctx := testContext(t)
	for {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), line) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%q is not in %q", line, text)
		}
	}
}

func removeLine(file, line string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), line, "", 1)), 0o600)
}

func TestAFailingHookEndsTheCreation(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		kind string
		hook func(*ocipb.Hooks) *[]*ocipb.Hook
	}{
		{"prestart", func(h *ocipb.Hooks) *[]*ocipb.Hook { return &h.Prestart }},
		{"createRuntime", func(h *ocipb.Hooks) *[]*ocipb.Hook { return &h.CreateRuntime }},
		{"createContainer", func(h *ocipb.Hooks) *[]*ocipb.Hook { return &h.CreateContainer }},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "seen")
			before := openFiles(t)
			spec := in(makeRootfs(t), "true", func(s *ocipb.Spec) {
				s.Linux.CgroupsPath = "/hooktest"
				s.Hooks = &ocipb.Hooks{Poststop: []*ocipb.Hook{noted(t, file, "poststop", "/")}}
				*tt.hook(s.Hooks) = []*ocipb.Hook{script(t, "echo too; echo bad >&2; exit 7"), noted(t, file, "second", "/")}
			})
			_, out, err := create(t, rt, spec)
			_ = out.String() // its reader has gone
			want := fmt.Sprintf("%s hook %s: exit status 7: too\nbad", tt.kind, busybox(t))
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if all := readSeen(t, file); len(all) != 1 || all[0].Word != "poststop" || all[0].State["status"] != "stopped" {
				t.Errorf("afterwards ran %+v", all)
			}
			if _, err := os.Stat(rt.config.CgroupRoot + "/hooktest"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the cgroup is left: %v", err)
			}
			if diff := cmp.Diff(before, openFiles(t)); diff != "" {
				t.Errorf("open files:\n%s", diff)
			}
		})
	}
}

func TestAFailingStartContainerHookEndsTheStart(t *testing.T) {
	rt := testRuntime(t)
	file := filepath.Join(t.TempDir(), "seen")
	c, out, err := create(t, rt, in(makeRootfs(t), "echo never", func(s *ocipb.Spec) {
		h := script(t, "echo so it is; id -u; exit 9")
		h.Path = "/bin/busybox"
		s.Process.User = &ocipb.User{UID: 1000, GID: 1000} // whose rights the hook has
		s.Hooks = &ocipb.Hooks{
			StartContainer: []*ocipb.Hook{h}, Poststart: []*ocipb.Hook{noted(t, file, "poststart", "/")},
			Poststop: []*ocipb.Hook{noted(t, file, "poststop", "/")},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Start(testContext(t))
	if want := "startContainer hook /bin/busybox: exit status 9: so it is\n1000"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); text != "" {
		t.Errorf("the program ran: %q", text)
	}
	if all := readSeen(t, file); len(all) != 1 || all[0].Word != "poststop" {
		t.Errorf("afterwards ran %+v", all)
	}
}

func TestHooksAfterTheFactMayFail(t *testing.T) {
	rt := testRuntime(t)
	file := filepath.Join(t.TempDir(), "seen")
	fails := script(t, "exit 1")
	c, out := started(t, rt, in(makeRootfs(t), "echo ran", func(s *ocipb.Spec) {
		s.Hooks = &ocipb.Hooks{
			Poststart: []*ocipb.Hook{fails, noted(t, file, "poststart", "/")},
			Poststop:  []*ocipb.Hook{fails, noted(t, file, "poststop", "/")},
		}
	}))
	if status := wait(t, c.Init()); status != 0 || out.String() != "ran\n" {
		t.Errorf("status %d, output %q", status, out.String())
	}
	if err := c.Destroy(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if all := readSeen(t, file); len(all) != 2 || all[0].Word != "poststart" || all[1].Word != "poststop" {
		t.Errorf("ran %+v", all)
	}
}

func TestAHookThatHangsEndsTheCreation(t *testing.T) {
	rt := testRuntime(t)
	for kind, hooks := range map[string]func(*ocipb.Hook) *ocipb.Hooks{
		"createRuntime":   func(h *ocipb.Hook) *ocipb.Hooks { return &ocipb.Hooks{CreateRuntime: []*ocipb.Hook{h}} },
		"createContainer": func(h *ocipb.Hook) *ocipb.Hooks { return &ocipb.Hooks{CreateContainer: []*ocipb.Hook{h}} },
	} {
		t.Run(kind, func(t *testing.T) {
			h := script(t, "sleep 100000")
			h.Timeout = 1
			_, _, err := create(t, rt, in(makeRootfs(t), "true", func(s *ocipb.Spec) { s.Hooks = hooks(h) }))
			if err == nil || !strings.Contains(err.Error(), kind+" hook "+busybox(t)+": it did not end within 1s and was killed") {
				t.Error(err)
			}
		})
	}
}

func TestHooksThatCannotBeRunAreRefused(t *testing.T) {
	rt := testRuntime(t)
	_, _, err := create(t, rt, in(makeRootfs(t), "true", func(s *ocipb.Spec) {
		s.Hooks = &ocipb.Hooks{Poststop: []*ocipb.Hook{{Path: "bin/x"}}}
	}))
	var wrong *fault.Error
	if want := `hooks.poststop[0].path "bin/x" is not an absolute path`; !errors.As(err, &wrong) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Only a createContainer hook may be one of the host's, by its path.
func TestAHookThatTheGuestDoesNotHave(t *testing.T) {
	rt := testRuntime(t)
	missing := []*ocipb.Hook{{Path: "/usr/bin/of-the-host"}}
	dir := t.TempDir()
	spec := in(makeRootfs(t), "echo runs", func(s *ocipb.Spec) {
		s.Hooks = &ocipb.Hooks{CreateContainer: append(missing, script(t, "echo there >"+dir+"/hook"))}
	})
	if got := run(t, rt, spec); got != (result{0, "runs\n"}) {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(dir + "/hook"); err != nil {
		t.Error(err)
	}
	if len(spec.Hooks.CreateContainer) != 2 {
		t.Error("the caller's spec was changed")
	}
	c, _, err := create(t, rt, in(makeRootfs(t), "echo runs", func(s *ocipb.Spec) { s.Hooks = &ocipb.Hooks{StartContainer: missing} }))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), "startContainer hook /usr/bin/of-the-host: no such file") {
		t.Errorf("error %v", err)
	}
}
