// Package containerd2 builds containerd 2 from the module proxy, for tests
// against a daemon newer than the distribution's.
//
// It builds only what ctr and a shim need: no CRI, none of the snapshotters
// that want a device or a library. The result stays in the user's cache; a
// second call finds it there.
package containerd2

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Version is the release that is built.
const Version = "v2.4.2"

const (
	module    = "github.com/containerd/containerd/v2"
	buildTags = "no_btrfs no_cri no_devmapper no_rdt no_systemd no_tracing no_zfs"
)

// Programs are what Build gives: two programs, and the directory of the runc
// shim that goes with them. That of containerd 1.6 does not start under
// containerd 2.3 and later.
type Programs struct{ Containerd, Ctr, ShimDir string }

// Build returns the programs, after building them if the cache lacks them,
// which takes about two minutes. It tells progress on w.
func Build(ctx context.Context, w io.Writer) (Programs, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Programs{}, fmt.Errorf("build containerd %s: %w", Version, err)
	}
	parent := filepath.Join(cache, "kata-in-go", "containerd")
	inputs := strings.Join([]string{Version, buildTags, "with the runc shim", runtime.Version(), runtime.GOARCH}, "\n")
	dir := filepath.Join(parent, fmt.Sprintf("%s-%x", strings.TrimPrefix(Version, "v"), sha256.Sum256([]byte(inputs)))[:len(Version)+12])
	programs := Programs{Containerd: filepath.Join(dir, "containerd"), Ctr: filepath.Join(dir, "ctr"), ShimDir: dir}
	if _, err := os.Stat(dir); err == nil {
		return programs, nil
	}
	fmt.Fprintf(w, "building containerd %s for the tests, once: about two minutes\n", Version)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Programs{}, fmt.Errorf("build containerd %s: %w", Version, err)
	}
	work, err := os.MkdirTemp(parent, "building")
	if err != nil {
		return Programs{}, fmt.Errorf("build containerd %s: %w", Version, err)
	}
	defer os.RemoveAll(work)
	if err := install(ctx, w, work); err != nil {
		return Programs{}, fmt.Errorf("build containerd %s: %w", Version, err)
	}
	// Who comes second finds the directory there already, with the same content.
	if err := os.Rename(work, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return Programs{}, fmt.Errorf("build containerd %s: %w", Version, err)
	}
	return programs, nil
}

func install(ctx context.Context, w io.Writer, dir string) error {
	args := []string{"-n", "10", "go", "install", "-trimpath", "-ldflags", "-s -w", "-tags", buildTags}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		args = append(args, module+"/cmd/"+program+"@"+Version)
	}
	cmd := exec.CommandContext(ctx, "nice", args...)
	cmd.Dir = dir // outside any module: the versions are containerd's own choice
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
	cmd.Stdout, cmd.Stderr = w, w
	return cmd.Run()
}
