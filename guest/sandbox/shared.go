package sandbox

import (
	"path"
	"strings"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/container"
	"kata/lib/fmt"
)

// nameAnnotation has the name that a container has in its pod. Shared mounts
// call containers by it, or by their IDs.
const nameAnnotation = "io.kubernetes.cri.container-name"

// CheckSharedMounts says which of the shared mounts of a container makes no
// sense: each must be for the container itself, from another one.
func CheckSharedMounts(id string, spec *ocipb.Spec, mounts []*agentpb.SharedMount) error {
	for i, m := range mounts {
		field, value := "", ""
		switch {
		case m == nil:
			field = "name"
		case m.DstCtr != id && m.DstCtr != spec.Annotations[nameAnnotation]:
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

// sharedMounts finds the containers that the shared mounts come from.
func (c *Container) sharedMounts(mounts []*agentpb.SharedMount) ([]container.SharedMount, error) {
	var shared []container.SharedMount
	for i, m := range mounts {
		source, err := c.sandbox.named(m.SrcCtr)
		if err != nil {
			return nil, fmt.Errorf("shared_mounts[%d].src_ctr: %w", i, err)
		}
		shared = append(shared, container.SharedMount{Name: m.Name, Source: source, Path: m.SrcPath, Destination: m.DstPath})
	}
	return shared, nil
}

// named returns the container with an ID or a name.
func (s *Sandbox) named(name string) (*container.Container, error) {
	s.mu.Lock()
	all := make([]*Container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		r, err := c.Runtime()
		if err != nil {
			continue // being made or removed
		}
		if c.id == name || r.Spec().Annotations[nameAnnotation] == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("container %q: %w", name, ErrNotFound)
}
