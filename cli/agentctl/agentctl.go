// Package agentctl is the program kata-agent-ctl: it calls the agent of a guest
// by hand. This package has the verbs and their flags; what they are made of is
// below it:
//
//   - command runs command lines: calls and built-ins
//   - message and render turn text into requests and answers into text
//   - dial connects to an agent by an address
//   - vm boots a machine with an agent
//   - console reads from a terminal
//
// It is a tool for people who look into a guest; the runtime does not need it.
package agentctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"kata/cli/agentctl/command"
)

// Exit statuses.
const (
	statusOK     = 0
	statusFailed = 1 // a command failed, or the connection
	statusUsage  = 2 // the command line is wrong; nothing was done
)

// Program is the environment of a run.
type Program struct {
	Stdin   *os.File
	Stdout  io.Writer
	Stderr  io.Writer
	Version string
}

// Run does what args, without the program's name, ask for and returns the exit
// status. ctx ends it.
func (p *Program) Run(ctx context.Context, args []string) int {
	err := p.run(ctx, args)
	var usageErr *usageError
	var commandErr *command.UsageError
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, errReported):
		return statusFailed
	case errors.As(err, &usageErr), errors.As(err, &commandErr):
		fmt.Fprintf(p.Stderr, "kata-agent-ctl: %v\n", err)
		return statusUsage
	}
	fmt.Fprintf(p.Stderr, "kata-agent-ctl: %v\n", err)
	return statusFailed
}

func (p *Program) run(ctx context.Context, args []string) error {
	o := &options{level: level{slog.LevelWarn}}
	global := flag.NewFlagSet("kata-agent-ctl", flag.ContinueOnError)
	global.SetOutput(io.Discard)
	o.logFlags(global)
	if err := global.Parse(args); err != nil {
		return p.flagError(err)
	}
	if global.NArg() == 0 {
		return usagef("what to do is missing\n\n%s", usage)
	}
	verb, args := global.Arg(0), global.Args()[1:]
	switch verb {
	case "connect", "vm", "console":
		return p.session(ctx, o, verb, args)
	case "help", "version", "examples", "generate-cid", "generate-sid":
		if len(args) > 0 && verb != "help" {
			return usagef("%s takes no arguments", verb)
		}
		return p.print(verb)
	}
	return usagef("there is no verb %q; connect, vm, console, generate-cid, generate-sid, examples, version and help are", verb)
}

// flagError tells a wrong flag from a wish for help.
func (p *Program) flagError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return p.print("help")
	}
	return usagef("%w; kata-agent-ctl help shows the flags", err)
}

// print serves the verbs that only print.
func (p *Program) print(verb string) error {
	text := map[string]string{
		"help": usage, "examples": examples, "version": "kata-agent-ctl " + p.Version + "\n",
	}[verb]
	if text == "" {
		text = command.NewID() + "\n"
	}
	_, err := io.WriteString(p.Stdout, text)
	return err
}
