// Command kata-image builds what a guest boots: the kernel, and the initrd
// that holds the agent. docs/guest-image.md describes it.
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

const usage = `usage: kata-image VERB [flags]

verbs:
  kernel   compile the guest kernel, or take the distribution's or a file
  initrd   build the initrd that holds the agent, with -variant debug a shell too
  all      both
  path     print where the cache has the kernel and the initrd
  list     print what is in the cache

kata-image VERB -h prints the flags of a verb.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "kata-image:", err)
		os.Exit(1)
	}
}

// errUsage: the command line is wrong, and the user has been told how.
var errUsage = errors.New("usage")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Print(usage)
		return nil
	}
	v := &verb{name: args[0], stdout: os.Stdout, stderr: os.Stderr}
	return v.run(ctx, args[1:])
}
