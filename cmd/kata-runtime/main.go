// Command kata-runtime is the operator's tool: which version this is, whether
// this host can run pods and what is missing, and what they would run with.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"kata/cli/runtime"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	program := runtime.Program{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	status := program.Run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}
