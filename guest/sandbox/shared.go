package sandbox

import (
	"context"
	"path"
	"strings"

	"kata/api/agentpb"
	"kata/guest/container/ocispec"
	"kata/lib/fmt"
)

// nameAnnotation has the name that a container has in its pod. Shared mounts
// call containers by it, or by their IDs.
const nameAnnotation = "io.kubernetes.cri.container-name"

// CheckSharedMounts says which of the shared mounts of a container makes no
// sense: each must be for the container itself, from another one.
func CheckSharedMounts(id string, spec *ocispec.Container, mounts []*agentpb.SharedMount) error {
	for i, m := range mounts {
		field, value := "", ""
		switch {
		case m == nil:
			field = "name"
		case m.DstCtr != id && m.DstCtr != spec.Annotations()[nameAnnotation]:
			field, value = "dst_ctr", m.DstCtr
		case m.SrcCtr == "" || m.SrcCtr == m.DstCtr || m.SrcCtr == id:
			field, value = "src_ctr", m.SrcCtr
		case !path.IsAbs(m.SrcPath) || strings.IndexByte(m.SrcPath, 0) >= 0:
			field, value = "src_path", m.SrcPath
		case !path.IsAbs(m.DstPath) || path.Clean(m.DstPath) == "/" || strings.IndexByte(m.DstPath, 0) >= 0:
			field, value = "dst_path", m.DstPath
		default:
			continue
		}
		return fmt.Errorf("shared_mounts[%d].%s %q of container %q: %w", i, field, value, id, ErrInvalid)
	}
	return nil
}

// sharedMounts finds the containers that the shared mounts come from, and holds
// them until release. The context it returns ends with any of them.
func (c *Container) sharedMounts(ctx context.Context, mounts []*agentpb.SharedMount) (_ context.Context, shared []SharedMount, release func(), err error) {
	var held []func()
	release = func() {
		for _, end := range held {
			end()
		}
	}
	for i, m := range mounts {
		within, source, end, err := c.sandbox.named(ctx, m.SrcCtr)
		if err != nil {
			release()
			return nil, nil, nil, fmt.Errorf("shared_mounts[%d].src_ctr: %w", i, err)
		}
		ctx, held = within, append(held, end)
		shared = append(shared, SharedMount{Name: m.Name, Source: source, Path: m.SrcPath, Destination: m.DstPath})
	}
	return ctx, shared, release, nil
}

// named returns the container with an ID or a name, and holds it until end.
func (s *Sandbox) named(ctx context.Context, name string) (_ context.Context, _ Instance, end func(), err error) {
	s.mu.Lock()
	all := make([]*Container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		within, r, end, err := c.use(ctx)
		if err != nil {
			continue // being made or removed
		}
		if c.id == name || r.Spec().Annotations()[nameAnnotation] == name {
			return within, r, end, nil
		}
		end()
	}
	return nil, nil, nil, fmt.Errorf("container %q: %w", name, ErrNotFound)
}
