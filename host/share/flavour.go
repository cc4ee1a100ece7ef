package share

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"kata/host/process"
)

// flavour is which program is called virtiofsd here; they take different flags.
type flavour int

const (
	flavourC    flavour = iota + 1 // part of QEMU up to 7.2
	flavourRust                    // its successor
)

func (f flavour) String() string {
	if f == flavourC {
		return "C"
	}
	return "Rust"
}

// detectFlavour asks the program for its version. An early Rust one knows no
// --version and says so with its usage.
func detectFlavour(ctx context.Context, path string, spawner *process.Spawner) (flavour, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := spawner.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", path, context.Cause(ctx))
	}
	kind, ok := flavourOf(out.String())
	if ok {
		return kind, nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w: %q", path, err, first)
	}
	return 0, fmt.Errorf("%s does not look like virtiofsd: its version is %q", path, first)
}

// flavourOf tells the programs apart by what --version prints.
func flavourOf(version string) (flavour, bool) {
	switch {
	case strings.Contains(version, "using FUSE kernel interface version"):
		return flavourC, true
	case strings.HasPrefix(version, "virtiofsd "), strings.Contains(version, "--shared-dir"):
		return flavourRust, true
	}
	return 0, false
}

// daemonArgs returns the arguments of virtiofsd, without its name. fd is the
// number of the listening socket in the child.
func daemonArgs(kind flavour, cfg DaemonConfig, fd int) ([]string, error) {
	sandbox := cfg.Sandbox
	switch sandbox {
	case "":
		sandbox = "namespace"
	case "namespace", "chroot":
	case "none":
		if kind == flavourC {
			return nil, fmt.Errorf("virtiofsd (C) has no sandbox mode %q", sandbox)
		}
	default:
		return nil, fmt.Errorf("unknown virtiofsd sandbox mode %q", sandbox)
	}
	cache, err := cacheMode(kind, cfg.Cache)
	if err != nil {
		return nil, err
	}
	level := "warn"
	if cfg.Debug {
		level = "debug"
	}
	// Submounts are not announced. The guest would make a file system of its own
	// of each, and guests of Linux 6.1 die when one is unmounted while a read or
	// the release of a file is on its way ("Busy inodes after unmount", then a
	// general protection fault in fuse_invalidate_atime, after which nothing of
	// virtio is served): about one container in fifty that ended quickly. The
	// price: files of different file systems of the host have one device number.
	if kind == flavourC {
		options := []string{
			"cache=" + cache, "sandbox=" + sandbox, "source=" + escapeOption(cfg.SharedDir),
			"xattr", "no_posix_lock", "log_level=" + level,
		}
		argv := []string{"-f", "--fd=" + strconv.Itoa(fd), "-o", strings.Join(options, ",")}
		return append(argv, cfg.ExtraArgs...), nil
	}
	argv := []string{
		"--fd=" + strconv.Itoa(fd), "--shared-dir=" + cfg.SharedDir, "--cache=" + cache,
		"--sandbox=" + sandbox, "--xattr", "--log-level=" + level,
	}
	return append(argv, cfg.ExtraArgs...), nil
}

// cacheMode translates a configured mode: the programs differ in the name of
// the mode without a cache, and only the Rust one can cache metadata alone.
func cacheMode(kind flavour, mode string) (string, error) {
	switch mode {
	case "auto", "always":
		return mode, nil
	case "none", "never":
		if kind == flavourC {
			return "none", nil
		}
		return "never", nil
	case "metadata":
		if kind == flavourRust {
			return mode, nil
		}
		return "", fmt.Errorf("virtiofsd (C) has no cache mode %q", mode)
	}
	return "", fmt.Errorf("unknown virtio_fs_cache %q: use never, metadata, auto or always", mode)
}

// escapeOption protects a value inside a comma-separated -o list (libfuse's
// fuse_opt syntax).
func escapeOption(value string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(value)
}
