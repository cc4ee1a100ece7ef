package vhostuser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"kata/host/vhostuser/vhostusertest"
)

// vmmEnv makes this test binary a VMM whose memory is the descriptor 3, mapped
// "shared" or "private".
const vmmEnv = "KATA_TEST_VMM"

// In private memory, what the VMM has written and the file has not.
const (
	privateAt   = 0x4000
	privateText = "not in the file"
)

func actAsVMM(how string) {
	low, _, err := vhostusertest.MapUser(3, how == "private")
	if err != nil {
		panic(err)
	}
	if how == "private" {
		copy(low[privateAt:], privateText)
	}
	_, _ = os.Stdout.WriteString("mapped\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
}

// startVMM starts a process that has a guest's memory, and returns its pid and how
// to end it.
func startVMM(t testing.TB, file *os.File, how string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), vmmEnv+"="+how)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
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
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = stdin.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "mapped\n" {
		t.Fatalf("the VMM says %q, %v", line, err)
	}
	return cmd.Process.Pid, end
}

// serveRemote is serve with the memory of another process.
func serveRemote(t *testing.T, dev Device) (s *served, endVMM func()) {
	t.Helper()
	front, back := vhostusertest.Pair(t)
	ctx, stop := context.WithCancelCause(context.Background())
	s = &served{VM: vhostusertest.New(t, front), done: make(chan error, 1), stop: stop}
	pid, endVMM := startVMM(t, s.File, "shared")
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.done <- ServeRemote(ctx, back, dev, slog.New(slog.DiscardHandler), pid)
	}()
	t.Cleanup(func() {
		front.Close()
		<-finished
		stop(nil)
	})
	return s, endVMM
}

func TestEchoThroughTheMemoryOfAnotherProcess(t *testing.T) {
	for name, features := range map[string]uint64{
		"with all features": ^uint64(0),
		"without any":       vhostusertest.FeatureVersion1,
		"without EVENT_IDX": ^uint64(vhostusertest.FeatureEventIdx),
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := serveRemote(t, &echo{})
			s.Features &= features
			s.Boot(2, 8)
			q := s.Queue(1)
			for i := range 300 { // the ring's indices pass 255
				msg := bytes.Repeat([]byte{byte(i)}, 10+40*i)
				head := q.Offer([][]byte{msg[:3], msg[3:]}, 1<<14)
				q.Kick()
				b := q.Wait()
				if b.Head != head || int(b.Written) != len(msg) || !bytes.Equal(b.Room[:b.Written], msg) {
					t.Fatalf("round %d: got %d bytes for head %d", i, b.Written, b.Head)
				}
				if i%100 == 0 {
					s.ShareMemory()
				}
			}
			if err := s.hangUp(); err != nil {
				t.Fatalf("Serve = %v, want nil after the VMM closed", err)
			}
		})
	}
}

// TestVMMThatDies ends the process whose memory a session uses.
func TestVMMThatDies(t *testing.T) {
	s, endVMM := serveRemote(t, &echo{})
	s.Boot(2, 8)
	s.roundTrip(0, "alive")
	endVMM()
	s.Queue(0).Offer([][]byte{[]byte("dead")}, 64)
	s.Queue(0).Kick()
	if err := s.end(); !errors.Is(err, ErrFrontend) {
		t.Errorf("Serve = %v, want a front-end's error", err)
	}
}

// TestPrivateMemory reads what a VMM has changed in its copy of a file, and
// changes it there and not in the file.
func TestPrivateMemory(t *testing.T) {
	front, _ := vhostusertest.Pair(t)
	vm := vhostusertest.New(t, front)
	pid, _ := startVMM(t, vm.File, "private")
	memory := remoteOf(t, pid)
	got := make([]byte, len(privateText))
	if err := memory.Read(privateAt, got); err != nil || string(got) != privateText {
		t.Errorf("read %q, %v", got, err)
	}
	if inFile := vm.Bytes(privateAt, len(got)); string(inFile) == privateText {
		t.Error("the VMM's memory is not private: the test shows nothing")
	}
	text := []byte("written from outside")
	if err := memory.Write(privateAt, text); err != nil {
		t.Fatal(err)
	}
	got = make([]byte, len(text))
	if err := memory.Read(privateAt, got); err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %q, %v", got, err)
	}
	if vm.Bytes(privateAt, 1)[0] != 0 {
		t.Error("the file has changed")
	}
}

// remoteOf is the table that vhostusertest sends.
func remoteOf(t *testing.T, pid int) table {
	t.Helper()
	regions, err := parseMemTable(vhostusertest.MemTable())
	if err != nil {
		t.Fatal(err)
	}
	memory := table(newRemote(pid, nil))
	for _, r := range regions {
		if memory, err = memory.with(r, -1); err != nil {
			t.Fatal(err)
		}
	}
	return memory
}

// TestRemoteMemoryHasBounds: none of it may reach what is not guest memory.
func TestRemoteMemoryHasBounds(t *testing.T) {
	memory := remoteOf(t, os.Getpid())
	for _, tt := range []struct {
		addr, n uint64
		want    bool
	}{
		{0, vhostusertest.LowSize, true},
		{0, vhostusertest.LowSize + 1, false},
		{vhostusertest.LowSize, 1, false},
		{vhostusertest.HighBase, vhostusertest.HighSize, true},
		{vhostusertest.HighBase - 1, 2, false},
		{^uint64(0), 2, false},
	} {
		if got := memory.Contains(tt.addr, tt.n); got != tt.want {
			t.Errorf("Contains(%#x, %#x) = %v", tt.addr, tt.n, got)
		}
	}
	p := make([]byte, 16)
	if err := memory.Read(vhostusertest.LowSize, p); !errors.Is(err, ErrDriver) {
		t.Errorf("Read past the end: %v", err)
	}
	if _, err := memory.Window(vhostusertest.User(0), vhostusertest.LowSize+1, 16); !errors.Is(err, ErrDriver) {
		t.Errorf("Window past the end: %v", err)
	}
	if _, err := memory.Window(vhostusertest.User(8), 16, 16); !errors.Is(err, ErrDriver) {
		t.Errorf("Window out of line: %v", err)
	}
}

// TestRetiredRemoteMemory keeps what the next table has too: the rest of the VMM's
// addresses may be its own by then.
func TestRetiredRemoteMemory(t *testing.T) {
	front, _ := vhostusertest.Pair(t)
	vm := vhostusertest.New(t, front)
	pid, _ := startVMM(t, vm.File, "shared")
	memory := remoteOf(t, pid)
	regions, err := parseMemTable(vhostusertest.MemTable())
	if err != nil {
		t.Fatal(err)
	}
	next, err := memory.without(regions[1])
	if err != nil {
		t.Fatal(err)
	}
	memory.retire(next)
	if err := memory.Write(64, []byte("kept")); err != nil || string(vm.Bytes(64, 4)) != "kept" {
		t.Errorf("write to what is still there: %v", err)
	}
	if err := memory.Write(vhostusertest.HighBase, []byte("gone")); !errors.Is(err, ErrDriver) {
		t.Errorf("write to what was taken away: %v", err)
	}
	if got := vm.Bytes(vhostusertest.HighBase, 1)[0]; got != 0 {
		t.Errorf("the memory that was taken away holds %#x", got)
	}
}
