// Command agentruntime prepares the Go runtime for the agent: it writes an
// overlay for go build in which a few sizes of the runtime's own tables suit a
// heap of one megabyte instead of one gigabyte.
//
//	go build -overlay "$(go run ./tools/agentruntime -output DIR)" ./cmd/kata-agent
//
// What changes are, first, constants that only say how much is allocated at a
// time:
//
//   - the tables of each size class's spans, 2 KiB and 4 KiB apiece however few
//     spans there are, and there are four tables for each of some thirty classes
//   - the chunks of mark bits, of which three are in turn, 64 KiB each, and each
//     is cleared as a whole
//   - the blocks of work of a collection, and the spans that stacks are cut from
//
// They are never given back; in the agent they are half a megabyte. The tables
// grow as before where that is too little. And debug.FreeOSMemory gives back what
// the allocator's caches hold, too.
//
// Second, a panic with a value that is no error and no string is not asked for
// its String any more: since it might be any type's, the linker keeps that method
// of all types, and with time.Time's all formats of times and the time zones, in
// all 65 KB. The agent panics with errors and strings.
//
// Third, what the guest has no use for is not reached, and so not linked: execution
// traces, the metrics and settings of GODEBUG, floating-point numbers in the text of
// a panic, CPU limits of cgroups. With it go 0.15 MB, and 70 KB of a buffer.
//
// A library that does not have these lines is an error: the Go version is pinned
// (go.mod), and a new one needs a look at its runtime first.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// change is a place of the standard library: a file below its sources, what stands
// there once, and what is to.
type change struct{ file, from, to string }

// changes for Go 1.26.
var changes = []change{
	// Sizes of tables.
	{"runtime/mspanset.go", "spanSetBlockEntries = 512 ", "spanSetBlockEntries = 32 "},
	{"runtime/mspanset.go", "spanSetInitSpineCap = 256 ", "spanSetInitSpineCap = 8 "},
	{"runtime/tagptr.go", "const tagAlignBits = 9", "const tagAlignBits = 8"},
	{"runtime/netpoll.go", "pad [tagAlign - unsafe.Sizeof(pollDesc{})]byte", "pad [2*tagAlign - unsafe.Sizeof(pollDesc{})]byte"},
	{"runtime/mheap.go", "const gcBitsChunkBytes = uintptr(64 << 10)", "const gcBitsChunkBytes = uintptr(4 << 10)"},
	{"runtime/mgcwork.go", "workbufAlloc = 32 << 10", "workbufAlloc = 8 << 10"},
	{"runtime/malloc.go", "_StackCacheSize = 32 * 1024", "_StackCacheSize = 16 * 1024"},
	// When memory is given back (debug.FreeOSMemory), so is that in the page caches of
	// the processors, up to 512 KiB each, as when a processor is taken away
	// (p.destroy).
	{"runtime/mheap.go", "\tGC()\n\tsystemstack(func() { mheap_.scavengeAll() })", flushed},
	// No signals to threads that run for long: each would touch a stack of its own.
	// Compiled without inlining, code calls functions all the time, where it can be
	// interrupted as well.
	{"runtime/signal_unix.go", "const preemptMSupported = true", "const preemptMSupported = false"},
	// No methods of values that panics are about.
	{"runtime/panic.go", "case stringer:", "case interface{ panicText() string }:"},
	{"runtime/panic.go", "p.arg = v.String()", "p.arg = v.panicText()"},
	// No floating-point numbers in them either: the kind is told, not the value.
	{"runtime/print.go", "strconv.AppendFloat(buf[:0], v, 'g', -1, 64)", `buf[:copy(buf[:], "float64")]`},
	{"runtime/print.go", "strconv.AppendFloat(buf[:0], float64(v), 'g', -1, 32)", `buf[:copy(buf[:], "float32")]`},
	{"runtime/print.go", "strconv.AppendComplex(buf[:0], c, 'g', -1, 128)", `buf[:copy(buf[:], "complex128")]`},
	{"runtime/print.go", "strconv.AppendComplex(buf[:0], complex128(c), 'g', -1, 64)", `buf[:copy(buf[:], "complex64")]`},
	// No traces, and none of what GODEBUG would ask for: nobody sets it.
	{"runtime/panic.go", "\tif traceEnabled() {\n\t\ttraceAdvance(false)\n\t}", ""},
	{"runtime/panic.go", "if debug.schedtrace > 0 || debug.scheddetail > 0 {", "if false {"},
	{"runtime/mgc.go", "if debug.checkfinalizers > 0 {\n\t\t\tcheckFinalizersAndCleanups()\n\t\t}", ""},
	{"internal/godebug/godebug.go", "\tsetUpdate(update)\n\tsetNewIncNonDefault(newIncNonDefault)\n", ""},
	{"internal/godebug/godebug.go", `	registerMetric("/godebug/non-default-behavior/"+s.Name()+":events", s.nonDefault.Load)`, ""},
	{"internal/godebug/godebug.go", "if v.bisect != nil && !v.bisect.Stack(&stderr) {", "if v.bisect != nil {"},
	// The agent bounds its threads itself and looks at no cgroup's CPU limit for it.
	{"runtime/cgroup_linux.go", "\tc, err := cgroup.OpenCPU(cgroupScratch[:])", "\treturn\n\tc, err := cgroup.OpenCPU(cgroupScratch[:])"},
	{"runtime/cgroup_linux.go", "if !cgroupOK {", "if true {"},
}

const flushed = `	GC()
	stw := stopTheWorldGC(stwGOMAXPROCS)
	systemstack(func() {
		lock(&mheap_.lock)
		for _, pp := range allp {
			pp.pcache.flush(&mheap_.pages)
		}
		unlock(&mheap_.lock)
	})
	startTheWorldGC(stw)
	systemstack(func() { mheap_.scavengeAll() })`

func main() {
	output := flag.String("output", "", "folder for the overlay, which is made")
	flag.Parse()
	if *output == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: agentruntime -output DIR")
		os.Exit(2)
	}
	path, err := overlay(*output)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agentruntime:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// overlay writes the overlay into dir and returns its name.
func overlay(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	sources := filepath.Join(strings.TrimSpace(string(goroot)), "src")
	replaced := make(map[string]string)
	files, err := apply(sources)
	if err != nil {
		return "", fmt.Errorf("%s is not the runtime that the changes were made for (toolchain in go.mod): %w", sources, err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := write(path, []byte(text)); err != nil {
			return "", err
		}
		replaced[filepath.Join(sources, name)] = path
	}
	list, err := json.MarshalIndent(map[string]any{"Replace": replaced}, "", "\t")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, write(path, append(list, '\n'))
}

// write writes a file unless it is there already: another build may read it.
func write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(path, data, 0o644)
}

// apply returns the changed files by name: all of them or none.
func apply(sources string) (map[string]string, error) {
	files := make(map[string]string)
	for _, c := range changes {
		text, ok := files[c.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(sources, c.file))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if strings.Count(text, c.from) != 1 {
			return nil, fmt.Errorf("%s has not got %q once", c.file, c.from)
		}
		files[c.file] = strings.Replace(text, c.from, c.to, 1)
	}
	return files, nil
}
