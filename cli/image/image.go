// Package image is kata-image: the verbs that build what a guest boots, the
// kernel and the initrd that holds the agent. docs/guest-image.md describes it.
// The building itself is done by kata/image/kernel, distro and initrd.
package image

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
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

// errUsage: the command line is wrong, and the user has been told how.
var errUsage = errors.New("usage")

// Program is kata-image on the given streams. They are files, because what is
// built shows its progress in place on a terminal.
type Program struct {
	Stdout, Stderr *os.File
}

// Run runs one command line, without the program's name, and returns the exit
// status: 0, 1 for what failed, 2 for a command line that is wrong. Whatever is
// wrong has been printed.
func (p Program) Run(ctx context.Context, args []string) int {
	err := p.run(ctx, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintln(p.Stderr, "kata-image:", err)
		return 1
	}
}

func (p Program) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(p.Stderr, usage)
		return errUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(p.Stdout, usage)
		return nil
	}
	v := &verb{name: args[0], stdout: p.Stdout, stderr: p.Stderr}
	return v.run(ctx, args[1:])
}
