package reaper

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The stop of a process that is traced is told to its tracer, and is no exit.
func TestStopsOfATraceeAreNoExits(t *testing.T) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	r := running(t)
	p, err := r.Start(shell("while :; do sleep 1; done", nil))
	if err != nil {
		t.Fatal(err)
	}
	stops := p.Stops()
	if err := unix.PtraceSeize(p.PID()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := p.Signal(unix.SIGURG); err != nil { // ignored by default, and stops a tracee
			t.Fatal(err)
		}
		select {
		case stop := <-stops:
			if stop != int(unix.SIGURG) {
				t.Errorf("stop %#x", stop)
			}
		case <-p.Done():
			t.Fatalf("a stop was taken for the exit %+v", p.Exit())
		}
		if err := unix.PtraceCont(p.PID(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := p.Exit().Status; got != 137 {
		t.Errorf("status %d", got)
	}
}
