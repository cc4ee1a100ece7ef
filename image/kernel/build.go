package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kata/image/cache"
	"kata/image/progress"
)

// builder does one build.
type builder struct {
	Options
	wanted []option
	env    []string
}

// build is the cache.Builder: extract, configure, verify, compile, collect.
func (b *builder) build(ctx context.Context, out, work string) error {
	source := filepath.Join(work, "source")
	if err := b.extract(ctx, work, source); err != nil {
		return fmt.Errorf("extract %s: %w", b.Source, err)
	}
	if err := b.configure(ctx, source); err != nil {
		return err
	}
	if err := b.compile(ctx, source, filepath.Join(work, "build.log")); err != nil {
		return err
	}
	return b.collect(ctx, source, out)
}

// configOnly makes and verifies the configuration in a folder of its own.
func (b *builder) configOnly(ctx context.Context, store *cache.Store) error {
	if err := os.MkdirAll(store.Dir(), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(store.Dir(), ".config-only-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	source := filepath.Join(work, "source")
	if err := b.extract(ctx, work, source); err != nil {
		return fmt.Errorf("extract %s: %w", b.Source, err)
	}
	if err := b.configure(ctx, source); err != nil {
		return err
	}
	fmt.Fprintf(b.Log, "all %d options of the fragment take effect\n", len(b.wanted))
	return nil
}

// extract unpacks the source, once: the folder gets its name when it is whole.
func (b *builder) extract(ctx context.Context, work, source string) error {
	if _, err := os.Stat(source); err == nil {
		fmt.Fprintln(b.Log, "going on with an interrupted build")
		return nil
	}
	part := source + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	tarball, err := os.Open(b.Source)
	if err != nil {
		return err
	}
	defer tarball.Close()
	info, err := tarball.Stat()
	if err != nil {
		return err
	}
	p := progress.New(b.Log, b.Terminal, "unpacking the kernel source", "MB")
	counted := &progress.Reader{R: tarball, Step: p, Total: info.Size()}
	var stderr bytes.Buffer
	err = run(ctx, command{
		args: []string{"tar", "-x", "-I", "xz -T0", "-f", "-", "-C", part, "--strip-components=1"},
		env:  b.env, stdin: counted, stderr: &stderr,
	})
	p.End(err == nil)
	if err != nil {
		return withOutput(err, stderr.String())
	}
	return os.Rename(part, source)
}

// configure writes .config and verifies it.
func (b *builder) configure(ctx context.Context, source string) error {
	fragment, err := filepath.Abs(filepath.Join(source, ".fragment"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(fragment, b.Fragment, 0o644); err != nil {
		return err
	}
	var output bytes.Buffer
	err = run(ctx, command{
		args: []string{"make", "allnoconfig", "KCONFIG_ALLCONFIG=" + fragment},
		dir:  source, env: b.env, stdout: &output, stderr: &output,
	})
	if err != nil {
		return fmt.Errorf("configure: %w", withOutput(err, output.String()))
	}
	config, err := os.ReadFile(filepath.Join(source, ".config"))
	if err != nil {
		return err
	}
	return verify(b.wanted, config)
}

// compile runs make, which goes on from where an earlier one was stopped.
func (b *builder) compile(ctx context.Context, source, logFile string) error {
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	config, err := os.ReadFile(filepath.Join(source, ".config"))
	if err != nil {
		return err
	}
	p := progress.New(b.Log, b.Terminal, "compiling the kernel", "steps")
	steps := &stepCounter{log: log, done: builtAlready(source), total: estimate(config), progress: p}
	err = run(ctx, command{
		args: []string{"make", "-j" + strconv.Itoa(b.Jobs), "bzImage"},
		dir:  source, env: b.env, stdout: steps, stderr: steps,
	})
	p.End(err == nil)
	if err != nil {
		return fmt.Errorf("compile: %w", withOutput(err, steps.tail()))
	}
	return nil
}

// collect puts the results into out.
func (b *builder) collect(ctx context.Context, source, out string) error {
	var stderr bytes.Buffer
	err := run(ctx, command{
		args: []string{"strip", "-o", filepath.Join(out, Vmlinux), filepath.Join(source, "vmlinux")},
		env:  b.env, stderr: &stderr,
	})
	if err != nil {
		return fmt.Errorf("strip: %w", withOutput(err, stderr.String()))
	}
	for name, from := range map[string]string{BzImage: "arch/x86/boot/bzImage", DotConf: ".config"} {
		if err := copyFile(filepath.Join(source, from), filepath.Join(out, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// withOutput adds what a program wrote, unless it was stopped on purpose.
func withOutput(err error, output string) error {
	output = strings.TrimSpace(output)
	if output == "" || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	lines := strings.Split(output, "\n")
	return fmt.Errorf("%w:\n%s", err, strings.Join(lines[max(0, len(lines)-30):], "\n"))
}
