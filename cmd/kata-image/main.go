// Command kata-image builds what a guest boots: the kernel, and the initrd
// that holds the agent. docs/guest-image.md describes it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"kata/cli/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := image.Program{Stdout: os.Stdout, Stderr: os.Stderr}.Run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}
