package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FromSpec returns c as a container of a spec of its own, for what ctr has no
// flags for: ctr's default spec with a change, and a busybox root file system,
// both in the directory dir.
func (n *Node) FromSpec(ctx context.Context, dir string, c Container, change func(*specs.Spec)) (Container, error) {
	spec, err := n.defaultSpec(ctx)
	if err != nil {
		return c, err
	}
	image, err := Busybox("")
	if err != nil {
		return c, err
	}
	rootfs := filepath.Join(dir, "rootfs")
	if err := WriteRootfs(rootfs, image); err != nil {
		return c, err
	}
	spec.Root = &specs.Root{Path: rootfs}
	spec.Process.Env = image.Config.Env
	spec.Process.Args = c.Args
	spec.Linux.CgroupsPath = "/" + Namespace + "/" + c.ID
	change(spec)
	text, err := json.Marshal(spec)
	if err != nil {
		return c, fmt.Errorf("write a spec: %w", err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return c, fmt.Errorf("write a spec: %w", err)
	}
	c.Image, c.Args, c.Flags = "", nil, append(c.Flags, "--config", file)
	return c, nil
}

// defaultSpec is the OCI spec that ctr gives a container by default.
func (n *Node) defaultSpec(ctx context.Context) (*specs.Spec, error) {
	r := n.Ctr(ctx, "oci", "spec")
	if r.Err != nil {
		return nil, r.Failure()
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal([]byte(r.Stdout), spec); err != nil {
		return nil, fmt.Errorf("read ctr's default spec: %w", err)
	}
	return spec, nil
}
