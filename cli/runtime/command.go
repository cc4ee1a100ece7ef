// Package runtime is kata-runtime, the operator's tool: which version this is,
// whether this host can run pods and what is missing, and what they would run
// with. The verbs and flags are upstream's; docs/configuration.md says what they
// report on. It starts nothing and changes nothing of the host.
package runtime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"kata/host/config"
	"kata/host/version"
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

// errUsage: the command line is wrong, and the user has been told how.
var errUsage = errors.New("usage")

// Program is kata-runtime on the given streams.
type Program struct {
	Stdout, Stderr io.Writer
	// Getenv reads the environment, which may name a configuration file.
	Getenv func(string) string
}

// Run runs one command line, without the program's name, and returns the exit
// status: 0, 1 for what failed or is missing, 2 for a command line that is wrong.
// Whatever is wrong has been printed.
func (p Program) Run(ctx context.Context, args []string) int {
	err := (&command{stdout: p.Stdout, stderr: p.Stderr, getenv: p.Getenv}).run(ctx, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintln(p.Stderr, "kata-runtime:", err)
		return 1
	}
}

// command is one call of the program.
type command struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	configFile     string
}

func (c *command) run(ctx context.Context, args []string) error {
	f := c.flags("kata-runtime")
	f.Usage = func() { fmt.Fprint(c.stderr, usage) }
	var showPaths, showVersion bool
	f.StringVar(&c.configFile, "config", "", "configuration `file`")
	f.StringVar(&c.configFile, "kata-config", "", "the same as --config")
	f.BoolVar(&showPaths, "show-default-config-paths", false, "print where the configuration is looked for")
	f.BoolVar(&showPaths, "kata-show-default-config-paths", false, "the same")
	f.BoolVar(&showVersion, "version", false, "print the version")
	f.BoolVar(&showVersion, "v", false, "print the version")
	c.ignoreGlobals(f)
	if err := parse(f, args); err != nil {
		return err
	}
	switch {
	case showVersion:
		return c.version()
	case showPaths:
		for _, p := range config.SearchPaths() {
			fmt.Fprintln(c.stdout, p)
		}
		return nil
	case f.NArg() == 0:
		f.Usage()
		return errUsage
	}
	rest := f.Args()[1:]
	switch f.Arg(0) {
	case "version":
		return c.version()
	case "check", "kata-check":
		return c.check(ctx, rest)
	case "env", "kata-env":
		return c.env(ctx, rest)
	case "help":
		fmt.Fprint(c.stdout, usage)
		return nil
	default:
		fmt.Fprintf(c.stderr, "kata-runtime: there is no verb %q\n%s", f.Arg(0), usage)
		return errUsage
	}
}

// ignoreGlobals accepts upstream's flags that mean nothing here, because
// scripts pass them.
func (c *command) ignoreGlobals(f *flag.FlagSet) {
	for _, name := range []string{"log", "log-format", "root", "rootless"} {
		f.String(name, "", "accepted for compatibility, no effect")
	}
	f.Bool("systemd-cgroup", false, "accepted for compatibility, no effect")
}

func (c *command) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(c.stderr)
	return f
}

func parse(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return errUsage // the flag package has said why
	}
	return err
}

// verbFlags parses the flags of a verb, which takes no arguments.
func (c *command) verbFlags(f *flag.FlagSet, args []string) error {
	if err := parse(f, args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		fmt.Fprintf(c.stderr, "%s: unexpected argument %q\n", f.Name(), f.Arg(0))
		return errUsage
	}
	return nil
}

// load reads the configuration as the shim would, with --config on top.
func (c *command) load() (*config.Config, error) {
	return config.Load(config.Sources{Option: c.configFile, Env: c.getenv(config.EnvPath)})
}

func (c *command) version() error {
	_, err := fmt.Fprintf(c.stdout, "kata-runtime  : %s\n   commit   : %s\n   OCI specs: %s\n", version.Version, version.Commit(), ociVersion)
	return err
}
