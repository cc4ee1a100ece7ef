package thread

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTheProcessStaysWhereItIs spends many threads, some of which would be the first.
func TestTheProcessStaysWhereItIs(t *testing.T) {
	before, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var first atomic.Bool
	var all sync.WaitGroup
	for range 500 {
		all.Go(func() {
			Spend(func() {
				if unix.Gettid() == unix.Getpid() {
					first.Store(true)
				}
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					t.Error(err)
				}
				if err := unix.Chdir("/proc"); err != nil {
					t.Error(err)
				}
			})
		})
	}
	all.Wait()
	if first.Load() {
		t.Error("it ran on the first thread")
	}
	if after, err := os.Readlink("/proc/self/cwd"); err != nil || after != before {
		t.Errorf("the process is in %s, %v; it was in %s", after, err, before)
	}
}
