package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/test/pace"
)

const limit = 20 * time.Second

// helperEnv makes this test binary act as the parent that dies.
const helperEnv = "KATA_PROCESS_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
		return
	}
	os.Exit(m.Run())
}

// helper launches two children, prints their pids and waits to be killed.
func helper() {
	spawner := NewSpawner()
	for range 2 {
		child, err := spawner.Launch(exec.Command("sleep", "1000"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(child.ID().PID)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(limit))
	t.Cleanup(cancel)
	return ctx
}

func newSpawner(t *testing.T) *Spawner {
	t.Helper()
	s := NewSpawner()
	t.Cleanup(s.Close)
	return s
}

func launch(t *testing.T, s *Spawner, name string, args ...string) *Child {
	t.Helper()
	child, err := s.Launch(exec.Command(name, args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(limit))
		defer cancel()
		if err := child.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	return child
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), helperEnv+"=1")
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	var children []ID
	for len(children) < 2 && lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("helper: %s", lines.Text())
		}
		id, err := Identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, id)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for _, id := range children {
		if err := id.Wait(within(t)); err != nil {
			t.Errorf("child %s outlives its parent: %v", id, err)
		}
	}
}

func TestChildEndIsNoticedWithItsLastWords(t *testing.T) {
	s := newSpawner(t)
	for name, test := range map[string]struct {
		script string
		want   []string // nil: no error
	}{
		"status 0":          {"echo fine >&2", nil},
		"a status":          {"echo first >&2; echo no such disk >&2; exit 3", []string{"exit status 3", "first; no such disk"}},
		"a signal":          {"kill -9 $$", []string{"signal: killed"}},
		"nothing was said":  {"exit 1", []string{"/sh: exit status 1"}},
		"stderr held open":  {"sleep 1000 & exit 4", []string{"exit status 4"}},
		"held open, status": {"sleep 1000 & exit 0", nil},
	} {
		t.Run(name, func(t *testing.T) {
			child := launch(t, s, "sh", "-c", test.script)
			if err := child.Wait(within(t)); err != nil {
				t.Fatal(err)
			}
			err := child.Err()
			if (err == nil) != (test.want == nil) {
				t.Fatalf("Err = %v", err)
			}
			for _, text := range test.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("Err = %q, want it to hold %q", err, text)
				}
			}
			if child.ID().Alive() {
				t.Error("a reaped child is alive")
			}
		})
	}
}

func TestChildTakesItsProcessGroupAlong(t *testing.T) {
	s := newSpawner(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	cmd.Stdout = write
	child, err := s.Launch(cmd)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := grandchild.Wait(within(t)); err != nil {
		t.Errorf("the grandchild is left: %v", err)
	}
}

func TestChildAbort(t *testing.T) {
	child := launch(t, newSpawner(t), "sleep", "1000")
	if err := child.Err(); err != nil {
		t.Errorf("Err while it runs: %v", err)
	}
	child.Abort()
	<-child.Done()
	child.Abort() // nothing to do
}

func TestChildHoldsOnlyWhatItIsGiven(t *testing.T) {
	// A descriptor as an exec without close-on-exec leaves it.
	inherited, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, inherited.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	given, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()

	s := newSpawner(t)
	list := filepath.Join(t.TempDir(), "fds")
	out, err := os.Create(list)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("sh", "-c", `n=0; while [ $n -lt 256 ]; do [ -e /proc/$$/fd/$n ] && printf "$n "; n=$((n+1)); done`)
	cmd.Stdout = out
	cmd.ExtraFiles = []*os.File{given}
	child, err := s.Launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if want := "0 1 2 3 "; string(got) != want {
		t.Errorf("the child holds %q, want %q", got, want)
	}
}

func TestSpawner(t *testing.T) {
	s := NewSpawner()
	if _, err := s.Launch(exec.Command("/nowhere/program")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/program") {
		t.Errorf("Launch of nothing: %v", err)
	}
	s.Close()
	s.Close()
	if err := s.Start(exec.Command("true")); !errors.Is(err, ErrSpawnerClosed) {
		t.Errorf("Start after Close: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	child := launch(t, newSpawner(t), "sleep", "1000")
	id := child.ID()
	if again, err := Identify(id.PID); err != nil || again != id {
		t.Errorf("Identify again: %+v, %v; want %+v", again, err, id)
	}
	if !id.Alive() {
		t.Error("a running child is not alive")
	}

	stranger := ID{PID: id.PID, StartTime: id.StartTime - 1} // had the pid before
	if stranger.Alive() {
		t.Error("a former owner of the pid is alive")
	}
	if err := stranger.Kill(within(t)); err != nil {
		t.Errorf("kill the former owner: %v", err)
	}
	if !id.Alive() {
		t.Fatal("killing the former owner of the pid hit the present one")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := id.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a running process: %v", err)
	}
	for range 2 { // the second time it is gone
		if err := id.Kill(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	<-child.Done()
	if id.Alive() {
		t.Error("alive after Kill")
	}
	if err := id.Wait(within(t)); err != nil {
		t.Errorf("Wait for one that is gone: %v", err)
	}
	if _, err := Identify(id.PID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Identify one that is gone: %v", err)
	}
}

func TestIdentityOfNothing(t *testing.T) {
	for _, id := range []ID{{}, {PID: -1}, {PID: 1 << 30, StartTime: 1}} {
		if id.Alive() {
			t.Errorf("%+v is alive", id)
		}
		if err := id.Kill(within(t)); err != nil {
			t.Errorf("kill %+v: %v", id, err)
		}
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Error("a zombie is alive")
	}
	if err := id.Kill(within(t)); err != nil {
		t.Errorf("kill a zombie: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for name, test := range map[string]struct {
		line string
		want uint64
		ok   bool
	}{
		"plain":                  {"7 (sleep)" + rest, 4242, true},
		"a name with everything": {"7 (a) S (b c)" + rest, 4242, true},
		"no name":                {"7 sleep" + rest, 0, false},
		"too short":              {"7 (sleep) S 1 2", 0, false},
		"not a number":           {"7 (sleep)" + strings.Replace(rest, "4242", "soon", 1), 0, false},
		"empty":                  {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := parseStat([]byte(test.line))
			if got != test.want || (err == nil) != test.ok {
				t.Errorf("parseStat = %d, %v", got, err)
			}
		})
	}
}

func TestTail(t *testing.T) {
	for name, test := range map[string]struct {
		writes []string
		want   string
	}{
		"nothing":                    {nil, ""},
		"less than fits":             {[]string{"ab", "cd"}, "abcd"},
		"just what fits":             {[]string{"0123456789"}, "0123456789"},
		"whole lines are kept":       {[]string{"one\ntwo\n", "three\n"}, "three\n"},
		"one write is too long":      {[]string{"0123456789\nabc"}, "abc"},
		"a line longer than the lot": {[]string{"01234", "56789", "abcde"}, "56789abcde"},
		"byte by byte":               {strings.Split("0123456789abcdefghi\nxyz", ""), "xyz"},
	} {
		t.Run(name, func(t *testing.T) {
			tail := NewTail(10)
			for _, w := range test.writes {
				if n, err := tail.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			if got := tail.String(); got != test.want {
				t.Errorf("String = %q, want %q", got, test.want)
			}
		})
	}
}

// A number stays in use as a process group after its process has gone, and is an
// error of its own kind before Linux 6.9.
func TestKillOfAGroupsLeaderThatHasGone(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 <&- >&- 2>&- & echo $!; read line")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	_ = cmd.Wait()
	if err := id.Kill(within(t)); err != nil {
		t.Error(err)
	}
	if err := id.Wait(within(t)); err != nil {
		t.Error(err)
	}
}
