// Command vmtest runs Go tests as root inside a VM, like go test:
//
//	go run ./test/vmtest [flags] PACKAGE... [-- TEST FLAGS]
//	go run ./test/vmtest ./guest/container -- -test.run Exec -test.v
//
// Tests are compiled with the build tag vmtest. Each package gets a VM of its
// own, with the guest kernel, busybox, the package's testdata folder, the files
// of the host that testdata/host-files names, and every file system and cgroup
// controller a guest has. Output arrives as it is written. With one package the
// exit status is that of its tests; with several it is that of the first that
// failed.
//
// The kernel is the one KATA_TEST_KERNEL names, or build/guest/vmlinux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		if status == 0 {
			status = 1
		}
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	var o options
	f := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	f.StringVar(&o.kernel, "kernel", os.Getenv("KATA_TEST_KERNEL"), "guest kernel (default: $KATA_TEST_KERNEL, build/guest/vmlinux)")
	f.StringVar(&o.accel, "accel", "tcg", "accelerator: tcg or kvm")
	f.StringVar(&o.tags, "tags", "vmtest,no_grpc", "build tags")
	f.StringVar(&o.params, "append", "", "more kernel parameters")
	f.IntVar(&o.memory, "m", 1024, "memory of a VM, MiB")
	f.IntVar(&o.cpus, "smp", 2, "vCPUs of a VM")
	f.DurationVar(&o.timeout, "timeout", 20*time.Minute, "deadline of the tests of a package; the VM ends half a minute later")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: vmtest [flags] PACKAGE... [-- TEST FLAGS]")
		f.PrintDefaults()
	}
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return 2, nil // the flag package has said why
	}
	o.packages, o.testFlags = split(f.Args())
	if len(o.packages) == 0 {
		f.Usage()
		return 2, nil
	}
	return o.run(ctx)
}
