// Package leaktest finds goroutines and descriptors that a package's tests have
// left behind.
//
// Use it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/stdio.")) }
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"kata/test/pace"
)

// patience is how long the last goroutines have to end.
const patience = 3 * time.Second

// Tests are what TestMain is given.
type Tests interface{ Run() int }

// Run runs the tests and then looks for goroutines with a function whose name
// has the given part, such as "kata/host/stdio.", for descriptors that were not
// open before, and for mappings of files with one of the given names. It returns the exit status of the test program, which is
// not 0 when something is left.
func Run(m Tests, part string, mapped ...string) int {
	warmUp()
	before := descriptors()
	if code := m.Run(); code != 0 {
		return code
	}
	var left []string
	for deadline := time.Now().Add(pace.Of(patience)); ; time.Sleep(10 * time.Millisecond) {
		left = append(append(goroutines(part), opened(before)...), mappings(mapped)...)
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, what := range left {
		fmt.Fprintln(os.Stderr, "left behind:", what)
	}
	return min(len(left), 1)
}

// warmUp lets the runtime's poller make the descriptors that it keeps.
func warmUp() {
	r, w, err := os.Pipe()
	if err == nil {
		_ = r.Close()
		_ = w.Close()
	}
}

func goroutines(part string) []string {
	buf := make([]byte, 4<<20)
	var left []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, part) && !strings.Contains(stack, "leaktest.goroutines") {
			left = append(left, stack)
		}
	}
	return left
}

func mappings(names []string) []string {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, name := range names {
		if strings.Contains(string(maps), name) {
			left = append(left, "a mapping of "+name)
		}
	}
	return left
}

func opened(before map[string]bool) []string {
	var left []string
	for d := range descriptors() {
		if !before[d] {
			left = append(left, "descriptor "+d)
		}
	}
	return left
}

func descriptors() map[string]bool {
	open := make(map[string]bool)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return open
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[e.Name()+" "+target] = true
		}
	}
	return open
}
