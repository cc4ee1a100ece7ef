// Package nerdctl builds nerdctl from the module proxy, for tests with the client
// that people type.
//
// The result stays in the user's cache, by version; a second call finds it there.
package nerdctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
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
const Version = "v2.1.2"

const module = "github.com/containerd/nerdctl/v2"

// Build returns the path of the program, after building it if the cache lacks it,
// which takes about a minute and a half. It tells progress on w.
func Build(ctx context.Context, w io.Writer) (string, error) {
	program, err := build(ctx, w)
	if err != nil {
		return "", fmt.Errorf("build nerdctl %s: %w", Version, err)
	}
	return program, nil
}

func build(ctx context.Context, w io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	parent := filepath.Join(cache, "kata-in-go", "nerdctl")
	inputs := strings.Join([]string{Version, runtime.Version(), runtime.GOARCH}, "\n")
	dir := filepath.Join(parent, fmt.Sprintf("%s-%x", strings.TrimPrefix(Version, "v"), sha256.Sum256([]byte(inputs)))[:len(Version)+12])
	program := filepath.Join(dir, "nerdctl")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintf(w, "building nerdctl %s for the tests, once: about a minute and a half\n", Version)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(parent, "building")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	source, err := download(ctx, w, work)
	if err != nil {
		return "", err
	}
	cmd := command(ctx, source, "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(work, "nerdctl"), "./cmd/nerdctl")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		return "", err
	}
	// Who comes second finds the directory there already, with the same content.
	if err := os.Rename(work, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return program, nil
}

// download returns where the module's source is. "go install" would ask the proxy
// for the list of versions, which not every proxy has.
func download(ctx context.Context, w io.Writer, dir string) (string, error) {
	cmd := command(ctx, dir, "mod", "download", "-json", module+"@"+Version)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, w
	runErr := cmd.Run()
	var m struct{ Dir, Error string }
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return "", errors.Join(runErr, err)
	}
	if m.Error != "" {
		return "", errors.New(m.Error)
	}
	return m.Dir, runErr
}

func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10", "go"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	return cmd
}
