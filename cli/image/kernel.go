package image

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kata/image/cache"
	"kata/image/distro"
	"kata/image/kernel"
)

// choice says which kernel, and how it is come by.
type choice struct {
	build, fromPackage, auto bool
	imported                 string

	source, fragment string
	jobs             int
	configOnly       bool

	pkg, moduleDir, more string
}

func (c *choice) flags(f *flag.FlagSet) {
	f.BoolVar(&c.build, "build", false, "the purpose-built kernel, compiled from source (default)")
	f.BoolVar(&c.fromPackage, "from-package", false, "the kernel of the distribution's package: there in seconds, boots about a second slower")
	f.StringVar(&c.imported, "import", "", "a kernel's `file`, vmlinux or bzImage with CONFIG_PVH")
	f.BoolVar(&c.auto, "auto", false, "-build if that kernel is in the cache, else -from-package")

	f.StringVar(&c.source, "source", kernel.DefaultSource, "with -build: kernel source, a .tar.xz")
	f.StringVar(&c.fragment, "config-fragment", "", "with -build: kernel config fragment (default: the one built in)")
	f.IntVar(&c.jobs, "j", 0, "with -build: parallel compilers (default: one per CPU)")
	f.BoolVar(&c.configOnly, "config-only", false, "with -build: only verify that the fragment takes effect")

	f.StringVar(&c.pkg, "package", distro.DefaultPackage, "with -from-package: the package's name, or its `file`, *.deb")
	f.StringVar(&c.moduleDir, "module-dir", "", "with -import: the `folder` of its modules, as /lib/modules/VERSION")
	f.StringVar(&c.more, "kernel-modules", "", "with -from-package or -import: more modules for the initrd, that pods may ask for (kernel_modules), separated by commas")
}

// problem says what is wrong with a choice, "" for nothing.
func (c *choice) problem() string {
	var ways []string
	for way, taken := range map[string]bool{"-build": c.build, "-from-package": c.fromPackage, "-import": c.imported != "", "-auto": c.auto} {
		if taken {
			ways = append(ways, way)
		}
	}
	switch {
	case len(ways) > 1:
		return "-build, -from-package, -import and -auto exclude each other"
	case c.moduleDir != "" && c.imported == "":
		return "-module-dir goes with -import"
	case c.more != "" && !c.fromPackage && c.imported == "":
		return "-kernel-modules goes with -from-package or -import: the purpose-built kernel has no modules"
	case c.configOnly && len(ways) > 0 && !c.build:
		return "-config-only goes with -build"
	}
	return ""
}

// compiled reports whether the kernel is the purpose-built one.
func (c *choice) compiled() bool { return !c.fromPackage && !c.auto && c.imported == "" }

// make returns the kernel, made if need be; nil after -config-only.
func (c *choice) make(ctx context.Context, store *cache.Store, stderr *os.File) (e *cache.Entry, cached bool, err error) {
	if c.compiled() {
		o, err := c.buildOptions(stderr)
		if err != nil {
			return nil, false, err
		}
		return kernel.Build(ctx, store, o)
	}
	if c.auto {
		if e := kernel.Cached(store); e != nil {
			return e, true, nil
		}
		fmt.Fprintln(stderr, "kernel: the purpose-built one is not in the cache; taking the distribution's, which boots about a second slower (-build compiles the other one, 7 to 17 minutes)")
	}
	return distro.Build(ctx, store, c.distroOptions(stderr))
}

// lookup returns the kernel if the cache has it.
func (c *choice) lookup(ctx context.Context, store *cache.Store, stderr *os.File) (*cache.Entry, error) {
	if c.compiled() {
		o, err := c.buildOptions(stderr)
		if err != nil {
			return nil, err
		}
		return kernel.Lookup(ctx, store, o)
	}
	if c.auto {
		if e := kernel.Cached(store); e != nil {
			return e, nil
		}
	}
	return distro.Lookup(ctx, store, c.distroOptions(stderr))
}

func (c *choice) distroOptions(stderr *os.File) distro.Options {
	return distro.Options{
		Package: c.pkg, Image: c.imported, ModuleDir: c.moduleDir, Log: stderr, Terminal: isTerminal(stderr),
		More: strings.FieldsFunc(c.more, func(r rune) bool { return r == ',' || r == ' ' }),
	}
}

func (c *choice) buildOptions(stderr *os.File) (kernel.Options, error) {
	o := kernel.Options{
		Source: c.source, Jobs: c.jobs, ConfigOnly: c.configOnly, Log: stderr, Terminal: isTerminal(stderr),
	}
	if c.fragment == "" {
		return o, nil
	}
	text, err := os.ReadFile(c.fragment)
	if err != nil {
		return o, fmt.Errorf("kernel config fragment: %w", err)
	}
	o.Fragment = text
	return o, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
