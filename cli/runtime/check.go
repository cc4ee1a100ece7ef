package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"kata/host/config"
	"kata/host/vmm/accel"
)

// checkFlags are upstream's; we never ask the network for releases.
type checkFlags struct {
	onlyVersion, releases, listReleases, noNetwork, strict, verbose bool
}

// check prints one line for each thing that pods need, and an error when one
// of them is not there.
func (c *command) check(ctx context.Context, args []string) error {
	var o checkFlags
	f := c.flags("kata-runtime check")
	const noReleases = "accepted for compatibility: releases are not looked up"
	f.BoolVar(&o.onlyVersion, "check-version-only", false, noReleases)
	f.BoolVar(&o.releases, "include-all-releases", false, noReleases)
	f.BoolVar(&o.listReleases, "only-list-releases", false, noReleases)
	f.BoolVar(&o.noNetwork, "no-network-checks", false, noReleases)
	f.BoolVar(&o.noNetwork, "n", false, noReleases)
	f.BoolVar(&o.strict, "strict", false, "fail on warnings too")
	f.BoolVar(&o.strict, "s", false, "the same as --strict")
	f.BoolVar(&o.verbose, "verbose", false, "print what is in order as well")
	f.BoolVar(&o.verbose, "v", false, "the same as --verbose")
	if err := c.verbFlags(f, args); err != nil {
		return err
	}
	if o.onlyVersion || o.listReleases {
		fmt.Fprintln(c.stdout, "releases are not looked up")
		return c.version()
	}
	r := &report{command: c, verbose: o.verbose}
	c.examine(ctx, r)
	return r.conclude(o.strict)
}

func (c *command) examine(ctx context.Context, r *report) {
	cfg, err := c.load()
	if err != nil {
		var all config.Errors
		if !errors.As(err, &all) {
			r.broken("configuration", err.Error())
			return
		}
		for _, e := range all {
			r.broken("configuration", e.Error())
		}
		return
	}
	r.ok("configuration", configName(cfg))
	for _, w := range cfg.Warnings {
		r.warn("configuration", w.String())
	}
	for _, e := range cfg.FolderProblems() {
		r.warn("configuration", e.Error())
	}
	for _, e := range cfg.Missing() {
		r.missing("file", e.Error())
	}
	for _, path := range []string{
		cfg.Driver.Path, cfg.Machine.Kernel, cfg.Machine.Initrd, cfg.Machine.Image, cfg.Driver.Firmware, cfg.FileShare.Daemon,
	} {
		if _, err := os.Stat(path); err == nil {
			r.ok("file", path)
		}
	}
	c.examineHost(ctx, r, cfg.Driver.Accel)
}

func (c *command) examineHost(ctx context.Context, r *report, wanted string) {
	verdict, err := accel.Probe(ctx, wanted)
	if err != nil {
		r.broken("accelerator", err.Error())
	} else {
		fmt.Fprintf(c.stdout, "accelerator: %s (%s)\n", verdict.Name, verdict.Reason)
	}
	if path, err := exec.LookPath("containerd-shim-kata-v2"); err != nil {
		r.warn("shim", "containerd-shim-kata-v2 is not in PATH: containerd finds it only by an absolute runtime_path")
	} else {
		r.ok("shim", path)
	}
	if os.Geteuid() != 0 {
		r.warn("privileges", "not root: whether pods can be created is not known")
	}
}

func configName(cfg *config.Config) string {
	if cfg.Path == "" {
		return "built-in defaults, no file was found"
	}
	return cfg.Path
}

// report counts and prints.
type report struct {
	command        *command
	verbose        bool
	wrong, warning int
}

func (r *report) ok(what, detail string) {
	if r.verbose {
		fmt.Fprintf(r.command.stdout, "ok: %s: %s\n", what, detail)
	}
}

func (r *report) warn(what, detail string) {
	r.warning++
	fmt.Fprintf(r.command.stdout, "warning: %s: %s\n", what, detail)
}

func (r *report) missing(what, detail string) {
	r.wrong++
	fmt.Fprintf(r.command.stdout, "missing: %s: %s\n", what, detail)
}

func (r *report) broken(what, detail string) {
	r.wrong++
	fmt.Fprintf(r.command.stdout, "wrong: %s: %s\n", what, detail)
}

// conclude prints upstream's sentences, which scripts look for.
func (r *report) conclude(strict bool) error {
	switch {
	case r.wrong == 1:
		return errors.New("this host cannot run pods: 1 thing is missing or wrong")
	case r.wrong > 1:
		return fmt.Errorf("this host cannot run pods: %d things are missing or wrong", r.wrong)
	case strict && r.warning > 0:
		return fmt.Errorf("%d warnings, and --strict was given", r.warning)
	}
	fmt.Fprintln(r.command.stdout, "System is capable of running Kata Containers")
	if os.Geteuid() == 0 {
		fmt.Fprintln(r.command.stdout, "System can currently create Kata Containers")
	}
	return nil
}
