package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kata/test/vmtest/vm"
	"kata/test/vmtest/wire"
)

type options struct {
	kernel, accel, tags, params string
	memory, cpus                int
	timeout                     time.Duration
	packages, testFlags         []string
	overlay                     string // of the agent's Go runtime
}

// split divides the arguments at "--".
func split(args []string) (packages, testFlags []string) {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i], args[i+1:]
	}
	return args, nil
}

// run tests every package and returns the status to exit with.
func (o *options) run(ctx context.Context) (int, error) {
	var err error
	if o.kernel, err = findKernel(o.kernel); err != nil {
		return 2, err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return 2, fmt.Errorf("a static busybox is needed (Debian: busybox-static): %w", err)
	}
	packages, err := o.list(ctx)
	if err != nil {
		return 2, err
	}
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir)
	initBinary := filepath.Join(dir, "init")
	if err := goTool(ctx, os.Stderr, "build", "-trimpath", "-ldflags=-s -w", "-o", initBinary, "kata/test/vmtest/init"); err != nil {
		return 2, fmt.Errorf("build the init: %w", err)
	}
	if o.overlay, err = agentRuntime(ctx, dir); err != nil {
		return 2, err
	}
	first := 0
	for _, p := range packages {
		status := o.test(ctx, p, dir, initBinary, busybox)
		if first == 0 {
			first = status
		}
		if ctx.Err() != nil {
			return max(first, 1), context.Cause(ctx)
		}
	}
	if first != 0 {
		fmt.Println("FAIL")
	}
	return first, nil
}

// test builds and runs the tests of one package, prints the line that go test
// ends with, and returns the exit status.
func (o *options) test(ctx context.Context, p pkg, dir, initBinary, busybox string) int {
	if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
		fmt.Printf("?   \t%s\t[no test files]\n", p.ImportPath)
		return 0
	}
	binary, image := filepath.Join(dir, "package.test"), filepath.Join(dir, "initrd.img")
	if err := goTool(ctx, os.Stderr, "test", "-c", "-trimpath", "-tags", o.tags, "-overlay", o.overlay,
		"-gcflags", compilerFlags, "-o", binary, p.ImportPath); err != nil {
		fmt.Printf("FAIL\t%s [build failed]\n", p.ImportPath)
		return 2
	}
	payload := o.payload(p, binary, initBinary, busybox)
	err := hostFiles(p.Dir, payload.Files)
	if err == nil {
		err = vm.WriteInitrd(image, payload)
	}
	if err != nil {
		fmt.Printf("%v\nFAIL\t%s [set-up failed]\n", err, p.ImportPath)
		return 2
	}
	const grace = 30 * time.Second // the test binary ends itself first, with a stack dump
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout+grace,
		fmt.Errorf("the VM was still running %v after the start", o.timeout+grace))
	defer cancel()
	start := time.Now()
	status, err := vm.Run(ctx, vm.Config{
		Accel: o.accel, Kernel: o.kernel, Initrd: image, MemoryMiB: o.memory, CPUs: o.cpus,
		Params: o.params, Output: os.Stdout,
	})
	elapsed := time.Since(start).Seconds()
	if err != nil {
		fmt.Printf("%v\nFAIL\t%s\t%.3fs\n", err, p.ImportPath, elapsed)
		return 1
	}
	if status != 0 {
		fmt.Printf("exit status %d\nFAIL\t%s\t%.3fs\n", status, p.ImportPath, elapsed)
		return status
	}
	fmt.Printf("ok  \t%s\t%.3fs\n", p.ImportPath, elapsed)
	return 0
}

func (o *options) payload(p pkg, binary, initBinary, busybox string) vm.Payload {
	guestDir := "/src/" + p.ImportPath
	files := map[string]string{"/bin/package.test": binary}
	if info, err := os.Stat(filepath.Join(p.Dir, "testdata")); err == nil && info.IsDir() {
		files[guestDir+"/testdata"] = filepath.Join(p.Dir, "testdata")
	} else {
		files[guestDir+"/.keep"] = os.DevNull
	}
	return vm.Payload{
		Init: initBinary, Busybox: busybox, Files: files,
		Job: wire.Job{
			Dir:  guestDir,
			Args: append([]string{"/bin/package.test", "-test.timeout=" + o.timeout.String()}, o.testFlags...),
			Env: []string{
				"PATH=/bin", "HOME=/root", "USER=root", "TMPDIR=/tmp", "LANG=C.UTF-8", "PWD=" + guestDir,
				"KATA_VMTEST=1",
			},
		},
	}
}

type pkg struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
}

// list expands the package patterns.
func (o *options) list(ctx context.Context) ([]pkg, error) {
	r, w := io.Pipe()
	go func() {
		args := append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "-tags", o.tags, "--"}, o.packages...)
		w.CloseWithError(goTool(ctx, w, args...))
	}()
	var out []pkg
	for d := json.NewDecoder(r); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		out = append(out, p)
	}
}

// compilerFlags are those that the agent ships with (Makefile), and checks of
// every conversion of an unsafe.Pointer.
const compilerFlags = "all=-l -d=checkptr"

// agentRuntime writes the overlay of the Go runtime that the agent ships with
// into dir, and returns its name.
func agentRuntime(ctx context.Context, dir string) (string, error) {
	var name strings.Builder
	if err := goTool(ctx, &name, "run", "kata/tools/agentruntime", "-output", filepath.Join(dir, "runtime")); err != nil {
		return "", fmt.Errorf("prepare the agent's Go runtime: %w", err)
	}
	return strings.TrimSpace(name.String()), nil
}

func goTool(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return cmd.Run()
}

// findKernel returns the kernel to boot.
func findKernel(named string) (string, error) {
	for _, k := range []string{named, "build/guest/vmlinux"} {
		if k == "" {
			continue
		}
		_, err := os.Stat(k)
		if err == nil {
			return k, nil
		}
		if k == named {
			return "", fmt.Errorf("guest kernel: %w", err)
		}
	}
	return "", errors.New("no guest kernel: set KATA_TEST_KERNEL, or build one into build/guest/vmlinux")
}
