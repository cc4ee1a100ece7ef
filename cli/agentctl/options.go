package agentctl

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"kata/cli/agentctl/command"
)

// options are the flags of connect and vm.
type options struct {
	// Both.
	commands     commandList
	interactive  bool
	ignoreErrors bool
	noDefaults   bool
	json         bool
	timeout      duration
	bundleDir    string
	level        level

	// connect.
	address string
	sandbox string

	// vm.
	config, kernel, initrd string
	share                  bool
}

// commandList collects -c.
type commandList []string

// String implements flag.Value.
func (c *commandList) String() string { return "" }

// Set implements flag.Value.
func (c *commandList) Set(line string) error {
	*c = append(*c, line)
	return nil
}

// duration is a duration in Go's form or in nanoseconds.
type duration time.Duration

// String implements flag.Value.
func (d *duration) String() string { return time.Duration(*d).String() }

// Set implements flag.Value.
func (d *duration) Set(text string) error {
	parsed, err := command.ParseDuration(text)
	*d = duration(parsed)
	return err
}

// level is a log level, by upstream's names too.
type level struct{ slog.Level }

// Set implements flag.Value.
func (l *level) Set(text string) error {
	switch text {
	case "trace":
		text = "debug"
	case "warning":
		text = "warn"
	case "critical":
		text = "error"
	}
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return errors.New("debug, info, warn and error are levels")
	}
	return nil
}

// flags returns the flags of connect, vm or console, with upstream's short forms.
func (o *options) flags(verb string) *flag.FlagSet {
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.SetOutput(io.Discard) // failures are told by whoever gets the error
	both := func(short, long string, define func(name string)) {
		define(short)
		define(long)
	}
	o.logFlags(f)
	f.Var(&o.timeout, "timeout", "")
	if verb != "vm" {
		f.StringVar(&o.address, "server-address", "", "")
		f.StringVar(&o.sandbox, "sandbox", "", "")
	}
	if verb == "console" {
		return f
	}
	both("c", "cmd", func(name string) { f.Var(&o.commands, name, "") })
	both("i", "interactive", func(name string) { f.BoolVar(&o.interactive, name, false, "") })
	both("n", "no-auto-values", func(name string) { f.BoolVar(&o.noDefaults, name, false, "") })
	f.BoolVar(&o.ignoreErrors, "ignore-errors", false, "")
	f.BoolVar(&o.json, "json", false, "")
	f.StringVar(&o.bundleDir, "bundle-dir", "", "")
	if verb == "vm" {
		f.StringVar(&o.config, "config", "", "")
		f.StringVar(&o.kernel, "kernel", "", "")
		f.StringVar(&o.initrd, "initrd", "", "")
		f.BoolVar(&o.share, "share", false, "")
	}
	return f
}

func (o *options) logFlags(f *flag.FlagSet) {
	f.Var(&o.level, "l", "")
	f.Var(&o.level, "log-level", "")
}

// usageError is a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
