// Command kvm runs end-to-end tests of the product on a machine that has KVM.
//
//	go run ./test/kvm [-- TEST FLAGS]
//
// Development and CI machines need not have one: QEMU's translator emulates an AMD
// processor with hardware virtualisation (-cpu max: SVM with nested paging), so a
// machine is booted under it with the distribution's kernel and kvm_amd module,
// QEMU, containerd and runc. The product is installed into it as `make install`
// does, and the end-to-end tests that Makefile's test-kvm names run in it, as root,
// under `accel = "auto"`. What is proven is function. Speed is not: everything in
// the machine is translated, the processor's virtualisation too.
//
// The machine's root file system is made from the distribution's packages with
// mmdebstrap, by the host's own apt sources, and kept in the user's cache folder.
// It is read-only; an overlay in memory takes what the tests write, so each run
// starts from the same machine. The product and the compiled tests are a second
// disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"kata/image/cache"
	"kata/test/harness"
)

type options struct {
	memoryMiB, cpus int
	timeout         time.Duration
	run             string
	console         bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvm:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	var o options
	f := flag.NewFlagSet("kvm", flag.ContinueOnError)
	f.IntVar(&o.memoryMiB, "m", 6144, "memory of the machine, MiB")
	f.IntVar(&o.cpus, "smp", 2, "processors of the machine")
	f.DurationVar(&o.timeout, "timeout", 30*time.Minute, "deadline of the machine")
	f.StringVar(&o.run, "run", ".", "end-to-end tests to run, by pattern")
	f.BoolVar(&o.console, "console", false, "show the machine's kernel messages")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return 2, nil // the flag package has said why
	}
	repo, err := harness.Repository()
	if err != nil {
		return 2, err
	}
	store, err := cache.Open("")
	if err != nil {
		return 2, err
	}
	image, err := machineImage(ctx, store)
	if err != nil {
		return 2, fmt.Errorf("make the machine's image: %w", err)
	}
	dir, err := os.MkdirTemp("", "kata-kvm-")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir)
	product := filepath.Join(dir, "product.erofs")
	if err := productImage(ctx, repo, filepath.Join(dir, "product"), product, append([]string{"-test.run", o.run}, f.Args()...)); err != nil {
		return 2, fmt.Errorf("make the product's image: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("the machine was still running after %v", o.timeout))
	defer cancel()
	return boot(ctx, o, image, product, os.Stdout)
}
