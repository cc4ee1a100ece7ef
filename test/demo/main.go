// Command demo runs one container in its own VM, under a containerd of its
// own, and shows what happened: the kernels, the accelerator, the time to the
// first output, the memory of the pod, and that nothing is left afterwards.
//
// `make demo` builds what it needs first. It needs root, as containerd does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/harness"
)

const (
	image     = "local/busybox:latest"
	limit     = 5 * time.Minute
	leakLimit = 20 * time.Second
)

func main() {
	guest := flag.String("guest", "build/guest", "folder with the guest's kernel and initrd")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx, os.Stdout, *guest)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, guest string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root: run it as root, or `sudo make demo`")
	}
	repo, err := harness.Repository()
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "starting a private containerd and making a busybox image")
	if guest, err = filepath.Abs(guest); err != nil {
		return err
	}
	config := repo.KataConfig(map[string]string{
		"kernel": strconv.Quote(filepath.Join(guest, "vmlinux")), "initrd": strconv.Quote(filepath.Join(guest, "kata-initrd.img")),
	})
	node, err := harness.Start(ctx, harness.Options{ShimDirs: []string{repo.Bin()}, KataConfig: config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	busybox, err := harness.Busybox(image)
	if err != nil {
		return err
	}
	if err := node.Import(ctx, busybox); err != nil {
		return err
	}
	before, err := node.Mark()
	if err != nil {
		return err
	}
	if err := show(ctx, w, node, repo); err != nil {
		return err
	}
	return showNothingLeft(ctx, w, node, before)
}

// show runs the container and prints what it was.
func show(ctx context.Context, w io.Writer, node *harness.Node, repo harness.Repo) error {
	c := harness.Container{
		ID:      node.NewID("demo"),
		Image:   image,
		Runtime: harness.Kata,
		Args:    []string{"/bin/sh", "-c", `echo "hello from $(uname -r)"; exec sleep 1000`},
	}
	fmt.Fprintf(w, "\n$ ctr run --rm --runtime %s %s demo \\\n      %s -c '%s'\n", c.Runtime, c.Image, c.Args[0], c.Args[2])
	begun := time.Now()
	container := node.Begin(ctx, c)
	if err := container.Stdout.Await(ctx, "the first line", func(s string) bool { return strings.HasSuffix(s, "\n") }); err != nil {
		return fmt.Errorf("%w\n%s", err, container.Stderr)
	}
	first := time.Since(begun)
	hello := strings.TrimSpace(container.Stdout.String())
	fmt.Fprintf(w, "%s\n\n", hello)

	host, err := kernelRelease()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%-22s %s\n", "host kernel", host)
	guest := strings.TrimPrefix(hello, "hello from ")
	fmt.Fprintf(w, "%-22s %s (%s)\n", "guest kernel", guest, whose(guest))
	fmt.Fprintf(w, "%-22s %s\n", "accelerator", accelerator(ctx, repo, node.ConfigFile()))
	fmt.Fprintf(w, "%-22s %.2f s\n", "time to first output", first.Seconds())
	if err := showMemory(w, node.Processes(c.ID)); err != nil {
		return err
	}
	if r := node.Ctr(ctx, "tasks", "kill", "--signal", "SIGKILL", c.ID); r.Err != nil {
		return r.Failure()
	}
	if r := container.Wait(); r.Code != 137 {
		return fmt.Errorf("after SIGKILL: %w", r.Failure())
	}
	return nil
}

// whose says where a guest's kernel comes from, and what that costs.
func whose(release string) string {
	if strings.HasSuffix(release, "-kata") {
		return "purpose-built"
	}
	return "the distribution's, which boots about a second slower than the purpose-built one: make demo KERNEL=build, 7 to 17 minutes once"
}

// showMemory prints the proportional set sizes of the pod's processes.
func showMemory(w io.Writer, pod []harness.Process) error {
	memory := make(map[string]int64)
	var total int64
	for _, p := range pod {
		pss, err := p.PSS()
		if err != nil {
			return err
		}
		memory[short(p.Program())] += pss // virtiofsd is two processes
		total += pss
	}
	for _, name := range slices.Sorted(maps.Keys(memory)) {
		fmt.Fprintf(w, "%-22s %.1f MiB\n", "memory of "+name, mib(memory[name]))
	}
	fmt.Fprintf(w, "%-22s %.1f MiB (PSS; the guest's memory is QEMU's)\n", "memory of the pod", mib(total))
	return nil
}

func showNothingLeft(ctx context.Context, w io.Writer, node *harness.Node, before harness.Mark) error {
	ctx, cancel := context.WithTimeout(ctx, leakLimit)
	defer cancel()
	left, err := node.Leaks(ctx, before)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	fmt.Fprintln(w, "\nthe container is gone, and no process, mount, tap or socket is left")
	return nil
}

// accelerator is what `kata-runtime check` says about it.
func accelerator(ctx context.Context, repo harness.Repo, conf string) string {
	out, err := exec.CommandContext(ctx, filepath.Join(repo.Bin(), "kata-runtime"), "--config", conf, "check").Output()
	for line := range strings.Lines(string(out)) {
		if verdict, ok := strings.CutPrefix(line, "accelerator: "); ok {
			return strings.TrimSpace(verdict)
		}
	}
	return fmt.Sprintf("unknown: kata-runtime check: %v", err)
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's name: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// short is a program's name as the table shows it.
func short(program string) string {
	switch {
	case strings.HasPrefix(program, "qemu"):
		return "QEMU"
	case strings.HasPrefix(program, "containerd-shim"):
		return "the shim"
	case strings.HasPrefix(program, "kata:"):
		return "the task's pid"
	}
	return program
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
