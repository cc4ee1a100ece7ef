package agentctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"kata/api/ttrpc"
	"kata/cli/agentctl/command"
	"kata/cli/agentctl/console"
)

// errReported: a command failed and the failure has been written.
var errReported = errors.New("a command failed")

const prompt = "agent> "

// runner runs the commands of one invocation.
type runner struct {
	*options
	program *Program
	parser  *command.Parser
	log     *slog.Logger
	parsed  []*command.Command
}

// session serves connect, vm and console.
func (p *Program) session(ctx context.Context, o *options, verb string, args []string) error {
	flags := o.flags(verb)
	if err := flags.Parse(args); err != nil {
		return p.flagError(err)
	}
	if flags.NArg() > 0 {
		return usagef("%s: %q is too much; a command is given with -c", verb, flags.Arg(0))
	}
	if verb != "console" && len(o.commands) == 0 && !o.interactive {
		return usagef("%s: there is nothing to do: give commands with -c, or -i to type them", verb)
	}
	r := &runner{options: o, program: p, parser: command.NewParser()}
	r.log = slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: o.level.Level}))
	for _, line := range o.commands {
		c, err := r.parser.Parse(line)
		if err != nil {
			return err
		}
		r.parsed = append(r.parsed, c)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	switch verb {
	case "vm":
		return r.report(r.bootAndRun(ctx))
	case "console":
		return r.console(ctx)
	}
	return r.report(r.connect(ctx))
}

// report writes an error that is no command's, if programs are to read it.
func (r *runner) report(err error) error {
	if usage := (*usageError)(nil); !r.json || err == nil || errors.Is(err, errReported) || errors.As(err, &usage) {
		return err
	}
	command.NewSession(command.Config{JSON: true, Out: r.program.Stdout, Err: r.program.Stderr}).Report(err)
	return errReported
}

// run serves commands on a connection, which it takes over.
func (r *runner) run(ctx context.Context, conn io.ReadWriteCloser, cfg command.Config) error {
	client := ttrpc.NewClient(conn)
	defer client.Close()
	cfg.Client, cfg.Log = client, r.log
	cfg.BundleDir, cfg.Timeout = r.bundleDir, time.Duration(r.timeout)
	cfg.NoDefaults, cfg.IgnoreErrors, cfg.JSON = r.noDefaults, r.ignoreErrors, r.json
	cfg.Out, cfg.Err = r.program.Stdout, r.program.Stderr
	session := command.NewSession(cfg)
	for _, c := range r.parsed {
		switch err := r.do(ctx, session, c); {
		case errors.Is(err, command.ErrQuit):
			return nil
		case err != nil:
			return err
		}
	}
	if r.interactive {
		return r.read(ctx, session)
	}
	return nil
}

// do runs one command, which SIGINT interrupts, and reports its failure. The
// error is ErrQuit, or errReported when nothing more should be done.
func (r *runner) do(ctx context.Context, session *command.Session, c *command.Command) error {
	interruptible, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	err := session.Run(interruptible, c)
	if err == nil || errors.Is(err, command.ErrQuit) {
		return err
	}
	session.Report(err)
	if ctx.Err() != nil || interruptible.Err() != nil && !r.interactive {
		return errReported
	}
	if r.ignoreErrors {
		return nil
	}
	return errReported
}

// read runs the commands that are typed. On a terminal a failure is part of the
// conversation; from a file or pipe it ends it, as with -c.
func (r *runner) read(ctx context.Context, session *command.Session) (err error) {
	c, err := console.New(r.program.Stdin, prompt, r.parser.Complete)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for {
		line, err := c.ReadLine(ctx)
		if err != nil {
			return r.endOfInput(ctx, err)
		}
		parsed, err := r.parser.Parse(line)
		switch {
		case err == nil:
			err = r.do(ctx, session, parsed)
		case c.IsTerminal():
			session.Report(err)
			err = nil
		}
		switch {
		case errors.Is(err, command.ErrQuit):
			return nil
		case ctx.Err() != nil, err != nil && !c.IsTerminal():
			return err
		}
	}
}

func (r *runner) endOfInput(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return nil
	}
	return fmt.Errorf("read commands: %w", err)
}
