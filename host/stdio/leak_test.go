package stdio

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package when its tests leave goroutines or descriptors.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "logger" {
		os.Exit(loggerMain(os.Args[2:]))
	}
	before := openFiles()
	code := m.Run()
	if code == 0 {
		code = reportLeaks(before)
	}
	os.Exit(code)
}

func reportLeaks(before map[string]bool) int {
	var stacks string
	deadline := time.Now().Add(2 * time.Second)
	for time.Now().Before(deadline) {
		if stacks = foreignStacks(); stacks == "" {
			break
		}
		runtime.Gosched()
	}
	code := 0
	if stacks != "" {
		fmt.Println("goroutines left:\n" + stacks)
		code = 1
	}
	for fd := range openFiles() {
		if !before[fd] {
			fmt.Println("descriptor left:", fd)
			code = 1
		}
	}
	return code
}

func foreignStacks() string {
	buf := make([]byte, 1<<20)
	var left []string
	for s := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(s, "kata/host/stdio.") && !strings.Contains(s, "foreignStacks") {
			left = append(left, s)
		}
	}
	return strings.Join(left, "\n\n")
}

func openFiles() map[string]bool {
	files := make(map[string]bool)
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.Contains(target, "eventpoll") && !strings.Contains(target, "eventfd") {
			files[e.Name()+" "+target] = true
		}
	}
	return files
}
