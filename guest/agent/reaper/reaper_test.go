package reaper

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// The tests wait for every child of their process, so each runs in a child of
// its own that is a subreaper: TestMain re-executes the binary.
func TestMain(m *testing.M) {
	if os.Getenv("REAPER_TEST_CHILD") == "1" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Fprintln(os.Stderr, "become subreaper:", err)
			os.Exit(2)
		}
		os.Exit(m.Run())
	}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), "REAPER_TEST_CHILD=1"),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the tests:", err)
		os.Exit(2)
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err != nil || !status.Exited() {
		fmt.Fprintln(os.Stderr, "tests ended:", status, err)
		os.Exit(2)
	}
	os.Exit(status.ExitStatus())
}

// running returns a reaper that runs until the test ends.
func running(t *testing.T) *Reaper {
	t.Helper()
	r := New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// shell starts /bin/sh -c script with output to w, if any.
func shell(script string, w *os.File) func() (int, error) {
	return func() (int, error) {
		files := []uintptr{0, 1, 2}
		if w != nil {
			files[1] = w.Fd()
		}
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: files})
	}
}

func start(t *testing.T, r *Reaper, script string) *Process {
	t.Helper()
	p, err := r.Start(shell(script, nil))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wait(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(pace.Of(20 * time.Second)):
		t.Fatalf("exit of process %d was lost", p.PID())
		return Exit{}
	}
}

func TestExitStatus(t *testing.T) {
	r := running(t)
	for _, tt := range []struct {
		name, script string
		want         int
	}{
		{"success is 0", "exit 0", 0},
		{"an exit code is itself", "exit 42", 42},
		{"the largest code", "exit 255", 255},
		{"SIGKILL is 137", "kill -9 $$", 137},
		{"SIGTERM is 143", "kill -15 $$", 143},
		{"SIGSEGV with or without a core is 139", "kill -11 $$", 139},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := time.Now()
			exit := wait(t, start(t, r, tt.script))
			if exit.Status != tt.want {
				t.Errorf("status %d, want %d", exit.Status, tt.want)
			}
			if exit.Time.Before(before) || exit.Time.After(time.Now()) {
				t.Errorf("time %v is not between start and now", exit.Time)
			}
		})
	}
}

func TestExitIsZeroBeforeTheEnd(t *testing.T) {
	r := running(t)
	p := start(t, r, "exec sleep 1000")
	if exit := p.Exit(); exit != (Exit{}) {
		t.Errorf("exit of a running process is %+v", exit)
	}
	fd, err := p.PIDFD()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p).Status; got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	if err := p.Signal(0); err != ErrEnded {
		t.Errorf("signal to an ended process: %v, want %v", err, ErrEnded)
	}
	if _, err := p.PIDFD(); err != ErrEnded {
		t.Errorf("pidfd of an ended process: %v, want %v", err, ErrEnded)
	}
}

// A child that is dead, and collected, before fork returns keeps its status.
func TestExitBeforeForkReturnsIsKept(t *testing.T) {
	r := running(t)
	p, err := r.Start(func() (int, error) {
		pid, err := shell("exit 7", nil)()
		for err == nil && isChild(pid) { // until Run has collected it
			var info unix.Siginfo
			_ = unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		}
		return pid, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p).Status; got != 7 {
		t.Errorf("status %d, want 7", got)
	}
}

// What was collected under a number before the child got it is not the
// child's exit.
func TestStatusOfAnEarlierOwnerOfTheNumberIsNotTaken(t *testing.T) {
	r := running(t)
	p, err := r.Start(func() (int, error) {
		pid, err := shell("exec sleep 1000", nil)()
		r.mu.Lock()
		r.early[pid] = Exit{Status: 99}
		r.mu.Unlock()
		return pid, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.PID(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p).Status; got != 143 {
		t.Errorf("status %d, want 143", got)
	}
	if len(r.early) != 0 {
		t.Errorf("%d statuses kept with no fork under way", len(r.early))
	}
}

func TestForkErrorIsReturnedAndNothingKept(t *testing.T) {
	r := running(t)
	if _, err := r.Start(func() (int, error) { return 0, unix.ENOEXEC }); err != unix.ENOEXEC {
		t.Errorf("error %v, want %v", err, unix.ENOEXEC)
	}
	if _, err := r.Start(func() (int, error) { return 0, nil }); err == nil {
		t.Error("process ID 0 was accepted")
	}
	if r.forks != 0 || len(r.live) != 0 {
		t.Errorf("%d forks and %d processes kept", r.forks, len(r.live))
	}
}

// Orphans and double-forked processes are collected, and a process registered
// among them keeps its own status.
func TestOrphansAreCollected(t *testing.T) {
	r := running(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	// Each script leaves a grandchild that tells its number and lives until
	// it is killed below.
	p, err := r.Start(shell("(sleep 1000 & echo $!; exit 3); (sleep 1000 & echo $!); exit 5", write))
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p).Status; got != 5 {
		t.Errorf("status %d, want 5", got)
	}
	buf := make([]byte, 64)
	var text string
	for strings.Count(text, "\n") < 2 {
		n, err := read.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		text += string(buf[:n])
	}
	for _, field := range strings.Fields(text) {
		orphan, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(orphan, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
			t.Fatal(err)
		}
		// The pidfd of a process answers ESRCH once it has been collected.
		deadline := time.Now().Add(pace.Of(20 * time.Second))
		for unix.PidfdSendSignal(fd, 0, nil, 0) != unix.ESRCH {
			if time.Now().After(deadline) {
				t.Fatalf("orphan %d was not collected", orphan)
			}
			syscall.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		unix.Close(fd)
	}
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	r := running(t)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			p, err := r.Start(shell("(true &); exit "+strconv.Itoa(i), nil))
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-p.Done():
				if got := p.Exit().Status; got != i {
					t.Errorf("status %d, want %d", got, i)
				}
			case <-time.After(pace.Of(60 * time.Second)):
				t.Errorf("exit %d was lost", i)
			}
		})
	}
	wg.Wait()
}

func TestRunEndsWithItsContext(t *testing.T) {
	r := New()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Run(ctx); err != context.Canceled {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
