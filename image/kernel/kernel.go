// Package kernel builds the guest kernel from the source package of the
// distribution and a fragment of configuration.
//
// The configuration is allnoconfig with the fragment on top, and a build whose
// fragment does not take effect to the letter fails before it compiles: an
// option that was renamed, or that depends on another, is named instead of
// being missed in the guest. Results go through image/cache, keyed by the
// source, the fragment, the compiler and this builder.
//
// The package runs make, gcc and their like from PATH. It does not install
// anything and needs no privilege.
package kernel

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"kata/image/cache"
)

// DefaultSource is the source package of Debian 12.
const DefaultSource = "/usr/src/linux-source-6.1.tar.xz"

// Names of the files of an entry.
const (
	Vmlinux = "vmlinux" // stripped ELF with a PVH entry point
	BzImage = "bzImage"
	DotConf = "config"
)

// Kind is the name of kernels in the cache.
const Kind = "kernel"

// version changes when the same inputs would give another result.
const version = "1"

//go:embed x86_64.config
var defaultFragment []byte

// DefaultFragment returns the fragment kept in this package.
func DefaultFragment() []byte { return append([]byte(nil), defaultFragment...) }

// Options say what to build.
type Options struct {
	Source   string // tarball, .tar.xz; "" is DefaultSource
	Fragment []byte // nil is DefaultFragment
	Jobs     int    // parallel compilers; 0 is one per CPU
	// ConfigOnly stops after the configuration was made and verified, and
	// caches nothing.
	ConfigOnly bool
	// Log receives lines for the user: what is going on and how far it is.
	Log io.Writer
	// Terminal says that Log is one, where a line may be written over.
	Terminal bool
}

// Build returns the kernel of the options from the store, building it if need
// be; cached says that it was there. When ctx ends, every process that Build
// has started is gone before it returns; the next call goes on from there.
func Build(ctx context.Context, store *cache.Store, o Options) (entry *cache.Entry, cached bool, err error) {
	o = o.withDefaults()
	wanted, err := parseFragment(o.Fragment)
	if err != nil {
		return nil, false, err
	}
	if err := checkTools(); err != nil {
		return nil, false, err
	}
	inputs, err := o.inputs(ctx)
	if err != nil {
		return nil, false, err
	}
	b := &builder{Options: o, wanted: wanted, env: environment()}
	if o.ConfigOnly {
		return nil, false, b.configOnly(ctx, store)
	}
	entry, cached, err = store.Make(ctx, Kind, inputs, func(s string) { fmt.Fprintln(o.Log, s) }, b.build)
	if err != nil {
		return nil, false, fmt.Errorf("build the kernel: %w", err)
	}
	return entry, cached, nil
}

// Lookup returns the kernel of the options if the store has it, else an error
// as of cache.Store.Get.
func Lookup(ctx context.Context, store *cache.Store, o Options) (*cache.Entry, error) {
	inputs, err := o.withDefaults().inputs(ctx)
	if err != nil {
		return nil, err
	}
	return store.Get(Kind, inputs)
}

// Cached returns the newest kernel of the built-in fragment that the store has, by
// whatever compiler and of whatever source, nil if there is none. It needs nothing
// of what building one needs.
func Cached(store *cache.Store) (newest *cache.Entry) {
	list, err := store.List()
	if err != nil {
		return nil
	}
	for _, e := range list {
		if e.Kind == Kind && e.Inputs["builder"] == version && e.Inputs["fragment"] == fragmentKey(defaultFragment) &&
			(newest == nil || e.Made().After(newest.Made())) {
			newest = e
		}
	}
	if newest == nil {
		return nil
	}
	checked, err := store.Get(Kind, newest.Inputs)
	if err != nil {
		return nil // damaged: as if it were not there
	}
	return checked
}

func fragmentKey(fragment []byte) string {
	return cache.Key(map[string]string{"fragment": string(fragment)})[:16]
}

func (o Options) withDefaults() Options {
	if o.Source == "" {
		o.Source = DefaultSource
	}
	if o.Fragment == nil {
		o.Fragment = defaultFragment
	}
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

// inputs are what the result depends on.
func (o Options) inputs(ctx context.Context) (map[string]string, error) {
	source, err := cache.HashFile(o.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("kernel source %s is not there (Debian: apt-get install linux-source-6.1)", o.Source)
	}
	if err != nil {
		return nil, fmt.Errorf("read kernel source: %w", err)
	}
	in := map[string]string{
		"builder":  version,
		"source":   filepath.Base(o.Source) + " " + source[:16],
		"fragment": fragmentKey(o.Fragment),
	}
	for _, tool := range []string{"gcc", "ld"} {
		out, err := exec.CommandContext(ctx, tool, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("ask %s for its version: %w", tool, err)
		}
		in[tool], _, _ = strings.Cut(string(out), "\n")
	}
	return in, nil
}

// ccacheDir is where ccache has links in the names of compilers (Debian: ccache).
const ccacheDir = "/usr/lib/ccache"

// environment is what make and the compilers see: nothing of the host's that
// could change the result, and constants where the kernel takes the host's. The
// compilers are those of ccache, if that is there: the same ones by another way.
func environment() []string {
	env := []string{
		"LC_ALL=C", "TZ=UTC", "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER=kata",
		"KBUILD_BUILD_HOST=kata", "KBUILD_BUILD_VERSION=1", "KCONFIG_NOTIMESTAMP=1",
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "CCACHE_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			if _, err := os.Stat(ccacheDir + "/gcc"); name == "PATH" && err == nil {
				v = ccacheDir + string(os.PathListSeparator) + v
			}
			env = append(env, name+"="+v)
		}
	}
	return env
}
