package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// command is the shim as containerd calls it, to be started.
func (d *daemon) command(bundle string, args ...string) *exec.Cmd {
	d.t.Helper()
	all := append([]string{"-namespace", "ns", "-address", d.dir + "/c.sock", "-id", filepath.Base(bundle)}, args...)
	cmd := exec.CommandContext(d.t.Context(), "/proc/self/exe", all...)
	cmd.Args[0] = "containerd-shim-kata-v2"
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), asShim+"="+d.dir, "TTRPC_ADDRESS="+d.eventSocket(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// awaitNothing waits until there is neither a server nor a socket.
func (d *daemon) awaitNothing() {
	d.t.Helper()
	for deadline := time.Now().Add(pace.Of(limit)); ; {
		entries, err := os.ReadDir(filepath.Join(d.dir, "s"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			d.t.Fatal(err)
		}
		servers := serversOf(d.t, d.dir)
		if len(entries)+len(servers) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("left: sockets %v, servers %v", entries, servers)
		}
	}
}

// containerd kills a "start" that takes too long, and everything of its own when
// the host ends it. At whatever moment that is, nothing may be left.
func TestNothingIsLeftOfAStartThatIsKilled(t *testing.T) {
	for _, after := range []time.Duration{0, 1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100} {
		after *= time.Millisecond
		t.Run(fmt.Sprint("after ", after), func(t *testing.T) {
			d := newDaemon(t)
			b := d.bundle("c1", []string{"sleep"})
			// Its answer has no reader and does not fit: it lives until it is
			// killed, and has not told anybody where the server is.
			r, w := fullPipe(t)
			defer r.Close()
			cmd := d.command(b, "start")
			cmd.Stdout = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			time.Sleep(after) // the moment of the fault
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			d.awaitNothing()
		})
	}
}

// fullPipe is a pipe into which nothing more can be written.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, os.Getpagesize())
	for {
		if _, err := unix.Write(fds[1], page); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
	}
	return os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
}

// The server is up and "start" is about to print: the last moment.
func TestAServerWhoseStartIsKilledBeforeItsAnswerEnds(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	r, w := fullPipe(t)
	defer r.Close()
	cmd := d.command(b, "start")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	for deadline := time.Now().Add(pace.Of(limit)); !exists(b, "address"); { // written just before
		if time.Now().After(deadline) {
			t.Fatal("the address is not written")
		}
	}
	if pids := serversOf(t, d.dir); len(pids) == 0 {
		t.Error("there is no server")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	d.awaitNothing()
}

func TestAStartWhoseServerIsKilledLeavesNothing(t *testing.T) {
	for _, at := range []string{"shim.pid", "address"} {
		t.Run(at, func(t *testing.T) {
			d := newDaemon(t)
			b := d.bundle("c1", []string{"sleep"})
			r, w := fullPipe(t)
			cmd := d.command(b, "start")
			var errs strings.Builder
			cmd.Stdout, cmd.Stderr = w, &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			for deadline := time.Now().Add(pace.Of(limit)); !exists(b, at); {
				if time.Now().After(deadline) {
					t.Fatalf("%s is not written", at)
				}
			}
			var pid int
			if _, err := fmt.Sscan(readFile(t, b, "shim.pid"), &pid); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			server := &shim{d: d, pid: pid, fd: fd}
			server.kill(unix.SIGKILL)
			server.awaitEnd()
			_, _ = io.Copy(io.Discard, r) // makes room for the answer, and reads it
			_ = r.Close()
			err = cmd.Wait()
			if err == nil || !strings.Contains(errs.String(), "has ended") {
				t.Errorf("start: %v, %q", err, errs.String())
			}
			d.wantNothing(b)
		})
	}
}
