// Command kata-runtime is the operator's tool: which version this is, whether
// this host can run pods and what is missing, and what they would run with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: kata-runtime [--config FILE] VERB [flags]

verbs:
  version             print the version
  check (kata-check)  say whether this host can run pods, with which
                      accelerator, and what is missing
  env (kata-env)      print what pods run with: TOML, or --json

kata-runtime VERB -h prints the flags of a verb.
kata-runtime --show-default-config-paths prints where the configuration is looked for.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := (&command{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}).run(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "kata-runtime:", err)
		os.Exit(1)
	}
}

// errUsage: the command line is wrong, and the user has been told how.
var errUsage = errors.New("usage")
