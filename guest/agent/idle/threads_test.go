package idle

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestThreadsWithNothingToDoEnd makes the runtime start threads, by calls that block,
// and lets them go.
func TestThreadsWithNothingToDoEnd(t *testing.T) {
	const calls = 20
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	var blocked sync.WaitGroup
	for range calls {
		blocked.Go(func() {
			var b [1]byte
			_, _ = unix.Read(pipe[0], b[:])
		})
	}
	for threads() < calls {
		runtime.Gosched()
	}
	if err := unix.Close(pipe[1]); err != nil {
		t.Fatal(err)
	}
	blocked.Wait()
	before := threads()
	// The runtime may start one while another ends.
	for range 10 {
		shedThreads()
	}
	if after := threads(); after > before/2 {
		t.Errorf("%d threads of %d are left", after, before)
	}
}
