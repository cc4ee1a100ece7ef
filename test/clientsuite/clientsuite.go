// Package clientsuite runs containerd's own client tests (integration/client of its
// module) against a runtime: the suite that every shim is meant to pass.
//
// The suite is built from the module proxy and stays in the user's cache, as the
// containerd does that it runs. The images that it pulls come from a registry of
// this package on the loopback interface: they are the busybox of the tests, under
// the suite's names. Tests of images that are not there fail with every runtime, and
// are no part of what is expected.
package clientsuite

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"kata/test/containerd2"
)

// registryAddress is where the suite that Build makes looks for images.
const registryAddress = "localhost:5017"

const module = "github.com/containerd/containerd/v2"

// host is the registry in a name of the suite's list of images.
var host = regexp.MustCompile(`(:\s+")[a-z0-9.-]+\.[a-z]+/`)

// Build returns the suite's program, after building it if the cache lacks it, which
// takes about two minutes. It tells progress on w.
func Build(ctx context.Context, w io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build the client suite: %w", err)
	}
	parent := filepath.Join(cache, "kata-in-go", "clientsuite")
	inputs := strings.Join([]string{containerd2.Version, registryAddress, runtime.Version(), runtime.GOARCH}, "\n")
	program := filepath.Join(parent, fmt.Sprintf("%s-%x", strings.TrimPrefix(containerd2.Version, "v"), sha256.Sum256([]byte(inputs)))[:len(containerd2.Version)+12])
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintf(w, "building the client tests of containerd %s, once: about two minutes\n", containerd2.Version)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("build the client suite: %w", err)
	}
	work, err := os.MkdirTemp(parent, "building")
	if err != nil {
		return "", fmt.Errorf("build the client suite: %w", err)
	}
	defer os.RemoveAll(work)
	if err := build(ctx, w, work); err != nil {
		return "", fmt.Errorf("build the client suite: %w", err)
	}
	// Who comes second has the same.
	if err := os.Rename(filepath.Join(work, "client.test"), program); err != nil {
		return "", fmt.Errorf("build the client suite: %w", err)
	}
	return program, nil
}

func build(ctx context.Context, w io.Writer, work string) error {
	source, err := download(ctx, w, work)
	if err != nil {
		return err
	}
	copied := filepath.Join(work, "source")
	if err := copyTree(copied, source); err != nil {
		return err
	}
	list := filepath.Join(copied, "integration", "images", "image_list.go")
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	text = host.ReplaceAll(text, []byte("${1}"+registryAddress+"/"))
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", "go", "test", "-c", "-trimpath", "-o", filepath.Join(work, "client.test"), "./integration/client")
	cmd.Dir = copied
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = w, w
	return cmd.Run()
}

// download returns the module's folder in the module cache.
func download(ctx context.Context, w io.Writer, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module+"@"+containerd2.Version)
	cmd.Dir, cmd.Stderr = dir, w
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w", module, err)
	}
	var m struct{ Dir, Error string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", fmt.Errorf("download %s: %w", module, err)
	}
	if m.Error != "" {
		return "", fmt.Errorf("download %s: %s", module, m.Error)
	}
	return m.Dir, nil
}

// copyTree copies a folder of the module cache, where all is read-only.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}
