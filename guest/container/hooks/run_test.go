package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata/test/pace"
)

const (
	// scene in the environment makes the test program a hook.
	scene = "HOOK_TEST="
	// noSleep keeps the race detector from holding up the end of each hook.
	noSleep = "GORACE=atexit_sleep_ms=0"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(strings.TrimSuffix(scene, "=")); name != "" {
		os.Exit(play(name))
	}
	os.Exit(m.Run())
}

// report is what a hook saw.
type report struct {
	Args, Env []string
	Dir       string
	State     map[string]any
	Session   bool // it leads one
}

// play is the hook: its second argument is a file.
func play(name string) int {
	switch name {
	case "report":
		r := report{Args: os.Args, Env: os.Environ()}
		r.Dir, _ = os.Getwd()
		sid, _ := unix.Getsid(0)
		r.Session = sid == os.Getpid()
		input, err := io.ReadAll(os.Stdin)
		if err == nil {
			err = json.Unmarshal(input, &r.State)
		}
		text, _ := json.Marshal(r)
		if err != nil || os.WriteFile(os.Args[1], text, 0o600) != nil {
			return 1
		}
		return 0
	case "append": // its name, to a file
		f, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return 1
		}
		fmt.Fprint(f, os.Args[0])
		return 0
	case "fail":
		fmt.Print(strings.Repeat("x", 100<<10))
		fmt.Fprintln(os.Stderr, "\xffthe end")
		return 3
	case "killed":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "linger": // leaves a child that holds the output, and its pid in a file
		return linger()
	case "hang": // the same, and does not end
		if status := linger(); status != 0 {
			return status
		}
		fmt.Println("hanging")
		return pause()
	case "sleep":
		if err := os.WriteFile(os.Args[1], fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
			return 1
		}
		return pause()
	}
	return 1
}

func pause() int {
	for {
		_ = unix.Pause()
	}
}

func linger() int {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"sleeper", os.Args[1] + ".sleeper"}, &syscall.ProcAttr{
		Env: []string{scene + "sleep", noSleep}, Files: []uintptr{0, 1, 2},
	})
	if err != nil || os.WriteFile(os.Args[1], fmt.Appendln(nil, pid), 0o600) != nil {
		return 1
	}
	return 0
}

// child is a child of the test program.
type child struct {
	pid   int
	mu    sync.Mutex
	ended bool
}

func (c *child) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
}

func (c *child) Wait() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.pid, &status, 0, nil); err != nil {
		panic(err)
	}
	c.ended = true
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func start(fork func() (int, error)) (Child, error) {
	pid, err := fork()
	return &child{pid: pid}, err
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// hook is the test program as a hook; its file is the one it writes.
func hook(t *testing.T, scenes string, file string) Hook {
	return Hook{Path: self(t), Args: []string{scenes, file}, Env: []string{scene + scenes, noSleep}}
}

func run(ctx context.Context, hooks ...Hook) error {
	return Start(start).Run(ctx, Prestart, hooks, State{ID: "c1", Status: "creating", PID: 7, Bundle: "/b"})
}

func TestAHookGetsWhatTheSpecificationSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report")
	h := hook(t, "report", file)
	h.Args[0], h.Timeout = "its name", time.Minute
	h.Env = append(h.Env, "B=2=3")
	files, _ := os.ReadDir("/proc/self/fd")
	if err := run(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := report{
		Args: []string{"its name", file}, Env: []string{scene + "report", noSleep, "B=2=3"}, Dir: "/", Session: true,
		State: map[string]any{"ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7.0, "bundle": "/b"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if now, _ := os.ReadDir("/proc/self/fd"); len(now) != len(files) {
		t.Errorf("%d descriptors are open, %d were", len(now), len(files))
	}
}

func TestHooksRunInOrderUntilOneFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	named := func(name string) Hook {
		h := hook(t, "append", file)
		h.Args[0] = name
		return h
	}
	err := run(t.Context(), named("1"), named("2"), hook(t, "fail", ""), named("3"))
	got, readErr := os.ReadFile(file)
	if err == nil || readErr != nil || string(got) != "12" {
		t.Errorf("ran %q: %v, %v", got, err, readErr)
	}
	var failed []string
	hooks := []Hook{hook(t, "fail", ""), named("3"), hook(t, "killed", "")}
	Start(start).RunAll(t.Context(), Poststop, hooks, State{}, func(err error) { failed = append(failed, err.Error()) })
	got, _ = os.ReadFile(file)
	if string(got) != "123" || len(failed) != 2 || !strings.Contains(failed[1], "poststop hook "+self(t)+": it was killed by signal 9") {
		t.Errorf("ran %q, failures %q", got, failed)
	}
}

func TestFailuresSayWhichHookAndWhy(t *testing.T) {
	exe := self(t)
	for _, tt := range []struct {
		is   string
		hook Hook
		want string
	}{
		{"a status, and the end of what it wrote", hook(t, "fail", ""), ": exit status 3: " + strings.Repeat("x", maxTail-9) + "?the end"},
		{"a signal", hook(t, "killed", ""), ": it was killed by signal 9"},
		{"no such file", Hook{Path: exe + ".not"}, ".not: no such file or directory"},
	} {
		t.Run(tt.is, func(t *testing.T) {
			err := run(t.Context(), tt.hook)
			if want := "prestart hook " + exe + tt.want; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

// fifo is a file through which a hook tells a process ID.
type fifo struct {
	*os.File
	path string
}

func newFIFO(t *testing.T, path string) fifo {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return fifo{f, path}
}

// pid waits until the hook has told it.
func (f fifo) pid(t *testing.T) int {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(pace.Of(patience))); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(f, &pid); err != nil {
		t.Fatalf("no word from the hook: %v", err)
	}
	return pid
}

const patience = time.Minute

// awaitEnd waits for the end of a process.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(pace.Of(patience)); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Fatalf("process %d lives (%v)", pid, err)
		}
		return
	}
}

func TestAHookThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	h := hook(t, "hang", file)
	h.Timeout = 2 * time.Second
	err := run(t.Context(), h)
	if err == nil || !strings.Contains(err.Error(), ": it did not end within 2s and was killed") {
		t.Fatal(err)
	}
	// On a slow machine it came to nothing in its time.
	var pid int
	if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		awaitEnd(t, pid)
	}
}

func TestTheEndOfTheContextEndsAHook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	file := newFIFO(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, hook(t, "hang", path), hook(t, "append", path+".not")) }()
	pid := file.pid(t)
	reason := errors.New("that is enough")
	cancel(reason)
	if err := <-done; !errors.Is(err, reason) {
		t.Errorf("%v, want %v", err, reason)
	}
	awaitEnd(t, pid)
	if err := run(ctx, hook(t, "append", path+".not")); !errors.Is(err, reason) {
		t.Errorf("after the end: %v", err)
	}
	var failed []error
	Start(start).RunAll(ctx, Poststop, []Hook{hook(t, "append", path+".not")}, State{}, func(err error) { failed = append(failed, err) })
	if !slices.ContainsFunc(failed, func(err error) bool { return errors.Is(err, context.Canceled) }) {
		t.Errorf("after the end: %v", failed)
	}
	if _, err := os.Stat(path + ".not"); err == nil {
		t.Error("a hook was run after the end")
	}
}

func TestNobodyWaitsForWhatAHookLeavesBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	sleeper := newFIFO(t, path+".sleeper")
	if err := run(t.Context(), hook(t, "linger", path)); err != nil {
		t.Fatal(err)
	}
	pid := sleeper.pid(t) // it lives, with the hook's output open
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestAHookNeedNotReadItsInput(t *testing.T) {
	state := State{ID: "c1", Annotations: map[string]string{"long": strings.Repeat("x", 1<<20)}}
	h := hook(t, "append", filepath.Join(t.TempDir(), "x"))
	if err := Start(start).Run(t.Context(), Prestart, []Hook{h}, state); err != nil {
		t.Error(err)
	}
}
