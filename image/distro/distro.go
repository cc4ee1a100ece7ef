// Package distro takes a guest kernel that somebody else has built: that of the
// distribution's package for clouds, or a file.
//
// It is there in seconds, where the purpose-built one (image/kernel) takes minutes
// to compile, and is a general one: most of what a guest needs are modules, and it
// boots about a second later. The modules, and what they depend on, go into an
// archive that is put after the initrd's own; the agent loads them
// (guest/machine/module).
//
// Nothing is installed: the package is downloaded by apt-get and unpacked by
// dpkg-deb, for which no privilege is needed. Results go through image/cache.
package distro

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kata/image/cache"
	"kata/image/kernel"
)

// DefaultPackage is Debian's kernel for virtual machines of clouds, its newest.
const DefaultPackage = "linux-image-cloud-amd64"

// Modules is the file of an entry with the archive of its modules; a kernel that
// needs none has no such file.
const Modules = "modules.img"

// version changes when the same inputs would give another result.
const version = "distro 1"

// Options say which kernel.
type Options struct {
	// Package is a package of the distribution, or its file, *.deb; "" is
	// DefaultPackage.
	Package string
	// Image, if set, is a kernel's file instead, vmlinux or bzImage, and ModuleDir
	// the folder of its modules, "" for none.
	Image, ModuleDir string
	// More are modules that pods may ask for by name (kernel_modules).
	More []string
	// Log receives lines for the user: what is going on and how far it is.
	Log io.Writer
	// Terminal says that Log is one, where a line may be written over.
	Terminal bool
}

func (o Options) withDefaults() Options {
	if o.Package == "" {
		o.Package = DefaultPackage
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

// source is where a kernel comes from.
type source struct {
	inputs map[string]string
	// fetch puts the kernel and its modules into a folder.
	fetch func(ctx context.Context, work string) (files, error)
}

// files are a kernel as somebody else has built it.
type files struct {
	image   string
	config  string // "" if unknown
	modules string // "" for none
}

// Build returns the kernel of the options from the store, fetching it if need be;
// cached says that it was there.
func Build(ctx context.Context, store *cache.Store, o Options) (entry *cache.Entry, cached bool, err error) {
	o = o.withDefaults()
	s, err := o.source(ctx)
	if errors.Is(err, errUnknownPackage) {
		if e := o.latest(store); e != nil {
			fmt.Fprintf(o.Log, "%v; taking %s, which is in the cache\n", err, e.Inputs["package"])
			return e, true, nil
		}
	}
	if err != nil {
		return nil, false, err
	}
	entry, cached, err = store.Make(ctx, kernel.Kind, s.inputs, func(s string) { fmt.Fprintln(o.Log, s) },
		func(ctx context.Context, out, work string) error {
			f, err := s.fetch(ctx, work)
			if err != nil {
				return err
			}
			return o.collect(ctx, f, out)
		})
	if err != nil {
		return nil, false, fmt.Errorf("make a guest kernel of %s: %w", o.name(), err)
	}
	return entry, cached, nil
}

// Lookup returns the kernel of the options if the store has it, else an error as of
// cache.Store.Get.
func Lookup(ctx context.Context, store *cache.Store, o Options) (*cache.Entry, error) {
	o = o.withDefaults()
	s, err := o.source(ctx)
	if errors.Is(err, errUnknownPackage) {
		if e := o.latest(store); e != nil {
			return e, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return store.Get(kernel.Kind, s.inputs)
}

// name is what people call it.
func (o Options) name() string {
	if o.Image != "" {
		return o.Image
	}
	return o.Package
}

// source finds out what the result depends on.
func (o Options) source(ctx context.Context) (source, error) {
	s := source{inputs: map[string]string{
		"builder": version,
		"modules": cache.Key(map[string]string{"boot": strings.Join(atBoot(), " "), "more": strings.Join(append(onDemand(), o.More...), " ")})[:16],
	}}
	switch {
	case o.Image != "":
		s.fetch = func(context.Context, string) (files, error) {
			return files{image: o.Image, modules: o.ModuleDir}, nil
		}
		sum, err := cache.HashFile(o.Image)
		if err != nil {
			return s, fmt.Errorf("read the kernel: %w", err)
		}
		s.inputs["image"] = filepath.Base(o.Image) + " " + sum[:16]
		if o.ModuleDir != "" {
			if s.inputs["tree"], err = hashTree(o.ModuleDir); err != nil {
				return s, fmt.Errorf("read the kernel's modules: %w", err)
			}
		}
		return s, nil
	case strings.HasSuffix(o.Package, ".deb"):
		sum, err := cache.HashFile(o.Package)
		if err != nil {
			return s, fmt.Errorf("read the package: %w", err)
		}
		s.inputs["package"] = filepath.Base(o.Package) + " " + sum[:16]
		s.fetch = func(ctx context.Context, work string) (files, error) { return o.unpack(ctx, o.Package, work) }
		return s, nil
	}
	p, err := find(ctx, o.Package)
	if err != nil {
		return s, err
	}
	s.inputs["package"] = p.name + " " + p.version
	s.inputs["asked"] = o.Package
	s.fetch = func(ctx context.Context, work string) (files, error) {
		deb, err := o.download(ctx, p, work)
		if err != nil {
			return files{}, err
		}
		return o.unpack(ctx, deb, work)
	}
	return s, nil
}

// latest returns the newest kernel of the store that came from the package, nil if
// there is none.
func (o Options) latest(store *cache.Store) (newest *cache.Entry) {
	list, err := store.List()
	if err != nil {
		return nil
	}
	for _, e := range list {
		if e.Kind == kernel.Kind && e.Inputs["builder"] == version && e.Inputs["asked"] == o.Package &&
			(newest == nil || e.Made().After(newest.Made())) {
			newest = e
		}
	}
	if newest == nil {
		return nil
	}
	checked, err := store.Get(kernel.Kind, newest.Inputs)
	if err != nil {
		return nil
	}
	return checked
}

// collect puts what a guest needs into out.
func (o Options) collect(ctx context.Context, f files, out string) error {
	image, err := os.ReadFile(f.image)
	if err != nil {
		return err
	}
	vmlinux, err := Vmlinux(ctx, image)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", filepath.Base(f.image), err)
	}
	write := func(name string, data []byte) error { return os.WriteFile(filepath.Join(out, name), data, 0o644) }
	if err := write(kernel.Vmlinux, vmlinux); err != nil {
		return err
	}
	if err := write(kernel.BzImage, image); err != nil {
		return err
	}
	if f.config != "" {
		config, err := os.ReadFile(f.config)
		if err != nil {
			return err
		}
		if err := write(kernel.DotConf, config); err != nil {
			return err
		}
	}
	if f.modules == "" {
		if len(o.More) > 0 {
			return fmt.Errorf("kernel modules %s: the kernel has no folder of modules", strings.Join(o.More, ", "))
		}
		return nil
	}
	t, err := openTree(f.modules)
	if err != nil {
		return err
	}
	modules, err := archive(ctx, t, o.More)
	if err != nil || modules == nil {
		return err
	}
	return write(Modules, modules)
}

// hashTree returns a hash of the names, sizes and times of a folder's files.
func hashTree(dir string) (string, error) {
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
		return nil
	})
	slices.Sort(lines)
	return cache.Key(map[string]string{"files": strings.Join(lines, "\n")})[:16], err
}
