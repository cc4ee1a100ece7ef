package image

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"kata/api"
	"kata/image/cache"
	"kata/image/distro"
	"kata/image/initrd"
	"kata/image/kernel"
)

// Variants of the initrd.
const (
	standard = "standard"
	debug    = "debug"
)

// imageName is what a variant is called in the output folder; "" if there is none
// of that name.
func imageName(variant string) string {
	switch variant {
	case standard:
		return "kata-initrd.img"
	case debug:
		return "kata-initrd-debug.img"
	}
	return ""
}

// verb is one call of the command.
type verb struct {
	name           string
	stdout, stderr *os.File

	output, cacheDir, agent, iptables, modules, variant, busybox string

	choice choice // which kernel
}

func (v *verb) run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("kata-image "+v.name, flag.ContinueOnError)
	f.SetOutput(v.stderr)
	f.StringVar(&v.cacheDir, "cache", "", "cache folder (default: kata-in-go in the user's cache folder)")
	var do []func(context.Context, *cache.Store) error
	switch v.name {
	case "kernel":
		v.outputFlags(f)
		v.choice.flags(f)
		do = append(do, v.kernel)
	case "initrd":
		v.outputFlags(f)
		v.initrdFlags(f)
		do = append(do, v.initrd)
	case "all":
		v.outputFlags(f)
		v.choice.flags(f)
		v.initrdFlags(f)
		do = append(do, v.kernel, v.initrd)
	case "path":
		v.choice.flags(f)
		v.initrdFlags(f)
		do = append(do, v.path)
	case "list":
		do = append(do, v.list)
	default:
		fmt.Fprintf(v.stderr, "kata-image: there is no verb %q\n%s", v.name, usage)
		return errUsage
	}
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if f.NArg() > 0 {
		fmt.Fprintf(v.stderr, "kata-image %s: unexpected argument %q\n", v.name, f.Arg(0))
		return errUsage
	}
	if problem := v.choice.problem(); problem != "" {
		fmt.Fprintf(v.stderr, "kata-image %s: %s\n", v.name, problem)
		return errUsage
	}
	if v.variant != "" && imageName(v.variant) == "" {
		fmt.Fprintf(v.stderr, "kata-image %s: there is no variant %q: standard and debug are\n", v.name, v.variant)
		return errUsage
	}
	store, err := cache.Open(v.cacheDir)
	if err != nil {
		return err
	}
	for _, step := range do {
		if err := step(ctx, store); err != nil {
			return err
		}
	}
	return nil
}

func (v *verb) outputFlags(f *flag.FlagSet) {
	const help = "`folder` to copy the results to: vmlinux, bzImage, kata-modules.img, kata-initrd.img or kata-initrd-debug.img"
	f.StringVar(&v.output, "output", "", help)
	f.StringVar(&v.output, "o", "", "the same as -output")
}

func (v *verb) initrdFlags(f *flag.FlagSet) {
	f.StringVar(&v.agent, "agent", "bin/kata-agent", "the agent, a static program")
	f.StringVar(&v.iptables, "iptables", "", "the agent's helper for GetIPTables and SetIPTables (default: kata-guest-iptables beside the agent; \"none\" is none)")
	f.StringVar(&v.modules, "modules", "", "archive of the kernel's modules, kata-modules.img (default: that of the kernel, if it is made by the same call)")
	f.StringVar(&v.variant, "variant", standard, "variant of the initrd: standard, the agent alone, or debug, with a shell")
	f.StringVar(&v.busybox, "busybox", "", "the busybox of the debug variant, a static program (default: the one in PATH)")
}

// initrdSource is what the flags say the initrd is built from.
func (v *verb) initrdSource() (initrd.Source, error) {
	source := initrd.Source{Agent: v.agent, Modules: v.modules}
	if helper := v.iptablesHelper(); helper != "" {
		source.Helpers = map[string]string{api.HelperIPTables: helper}
	}
	if v.variant != debug {
		return source, nil
	}
	if source.Busybox = v.busybox; source.Busybox != "" {
		return source, nil
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return source, fmt.Errorf("the debug variant needs a static busybox (Debian: busybox-static): %w", err)
	}
	source.Busybox = path
	return source, nil
}

// iptablesHelper returns the file of the helper, "" for none.
func (v *verb) iptablesHelper() string {
	switch v.iptables {
	case "none":
		return ""
	case "":
	default:
		return v.iptables
	}
	beside := filepath.Join(filepath.Dir(v.agent), "kata-guest-iptables")
	if _, err := os.Stat(beside); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(v.stderr, "initrd: without %s: GetIPTables and SetIPTables will not be implemented\n", beside)
		return ""
	}
	return beside
}

func (v *verb) kernel(ctx context.Context, store *cache.Store) error {
	e, cached, err := v.choice.make(ctx, store, v.stderr)
	if err != nil || e == nil {
		return err
	}
	v.takeModules(e)
	return v.deliver(e, cached, map[string]string{
		kernel.Vmlinux: "vmlinux", kernel.BzImage: "bzImage", distro.Modules: "kata-modules.img",
	})
}

// takeModules makes the kernel's modules part of the initrd, unless others were
// asked for.
func (v *verb) takeModules(e *cache.Entry) {
	if _, has := e.Files[distro.Modules]; has && v.modules == "" {
		v.modules = e.Path(distro.Modules)
	}
}

func (v *verb) initrd(ctx context.Context, store *cache.Store) error {
	source, err := v.initrdSource()
	if err != nil {
		return err
	}
	e, cached, err := initrd.Build(ctx, store, source, func(s string) { fmt.Fprintln(v.stderr, s) })
	if err != nil {
		return err
	}
	return v.deliver(e, cached, map[string]string{initrd.Image: imageName(v.variant)})
}

// deliver copies the files of an entry to the output folder, under their
// names there, and prints where they are.
func (v *verb) deliver(e *cache.Entry, cached bool, names map[string]string) error {
	how := "built"
	if cached {
		how = "unchanged, from the cache"
	}
	fmt.Fprintf(v.stderr, "%s: %s\n", e.Kind, how)
	for _, name := range sortedKeys(names) {
		if _, has := e.Files[name]; !has {
			continue
		}
		path := e.Path(name)
		if v.output != "" {
			path = filepath.Join(v.output, names[name])
			if err := e.Export(name, path); err != nil {
				return fmt.Errorf("copy %s to %s: %w", e.Kind, path, err)
			}
		}
		fmt.Fprintln(v.stdout, path)
	}
	return nil
}

// path prints the files of the current inputs, or says what is not built yet.
func (v *verb) path(ctx context.Context, store *cache.Store) error {
	k, kernelErr := v.choice.lookup(ctx, store, v.stderr)
	if kernelErr == nil {
		fmt.Fprintln(v.stdout, k.Path(kernel.Vmlinux))
		fmt.Fprintln(v.stdout, k.Path(kernel.BzImage))
		v.takeModules(k)
	}
	source, initrdErr := v.initrdSource()
	if initrdErr == nil {
		var i *cache.Entry
		if i, initrdErr = initrd.Lookup(ctx, store, source); initrdErr == nil {
			fmt.Fprintln(v.stdout, i.Path(initrd.Image))
		}
	}
	return errors.Join(notBuilt("kernel", kernelErr), notBuilt("initrd", initrdErr))
}

func notBuilt(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: not built yet (%w)", what, err)
	}
	return err
}

// list prints every entry and its files.
func (v *verb) list(_ context.Context, store *cache.Store) error {
	entries, err := store.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		fmt.Fprintln(v.stdout, e)
		for _, name := range sortedKeys(e.Files) {
			if err := printFile(v.stdout, e.Path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func printFile(w io.Writer, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "  %10d  %s\n", info.Size(), path)
	return err
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
