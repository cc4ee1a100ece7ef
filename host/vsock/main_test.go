package vsock

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a test leaves goroutines, descriptors or mappings of
// guest memory behind.
func TestMain(m *testing.M) {
	// The runtime's poller makes its descriptors at the first use and keeps
	// them.
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	before := openFDs()
	code := m.Run()
	if code == 0 {
		if err := settle(before); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// settle waits until nothing of ours is left, since the last goroutines may
// be about to return.
func settle(fds int) error {
	var err error
	for range 100 {
		if err = leaked(fds); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func leaked(fds int) error {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for s := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(s, "kata/host/") && !strings.Contains(s, "TestMain") {
			return fmt.Errorf("leaked goroutine:\n%s", s)
		}
	}
	if now := openFDs(); now > fds {
		return fmt.Errorf("leaked %d descriptors", now-fds)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err == nil && strings.Contains(string(maps), "memfd:guest") {
		err = fmt.Errorf("leaked a mapping of guest memory")
	}
	return err
}

func openFDs() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
