package ocispec

import (
	"kata/api/ocipb"
	"kata/guest/container/plan"
	"kata/guest/storage/mount"
)

const maxPath = 4096 // PATH_MAX, with the zero byte at the end

func parseMounts(mounts []*ocipb.Mount, hasUsers bool) (all []plan.Mount, err error) {
	for i, m := range mounts {
		if m == nil || m.Destination == "" {
			return nil, errorf("mounts[%d] has no destination", i)
		}
		for _, f := range [...]struct{ field, value string }{{"destination", m.Destination}, {"source", m.Source}, {"type", m.Type}} {
			if hasZero(f.value) {
				return nil, errorf("mounts[%d].%s %q holds a zero byte", i, f.field, f.value)
			}
			if len(f.value) >= maxPath {
				return nil, errorf("mounts[%d].%s is too long: %d bytes", i, f.field, len(f.value))
			}
		}
		parsed := plan.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, IDs: users(m.UIDMappings, m.GIDMappings)}
		parsed.Options, err = mount.Parse(m.Options)
		if err == nil {
			err = checkIDMap(&parsed, hasUsers)
		}
		if err != nil {
			return nil, errorf("mounts[%d] %s: %v", i, m.Destination, err)
		}
		all = append(all, parsed)
	}
	return all, nil
}

// checkIDMap checks what a mount has about ID mappings.
func checkIDMap(m *plan.Mount, hasUsers bool) error {
	given := m.IDs.Given()
	switch {
	case !given && !m.Options.IDMap:
		return nil
	case !m.IsBind():
		return errorf("only a bind mount can have ID mappings, not one of type %q", m.Type)
	case !given && !hasUsers:
		return errorf("option idmap needs uidMappings and gidMappings, or a user namespace")
	case !given:
		return nil
	}
	return checkMappings("", &m.IDs)
}
