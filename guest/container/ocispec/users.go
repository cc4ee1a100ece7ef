package ocispec

import (
	"kata/api/ocipb"
	"kata/guest/container/plan"
)

// users are the mappings of a user namespace, unchecked.
func users(uids, gids []*ocipb.LinuxIDMapping) plan.Users {
	return plan.Users{UIDs: idMap(uids), GIDs: idMap(gids)}
}

func idMap(mappings []*ocipb.LinuxIDMapping) (m plan.IDMap) {
	for _, r := range mappings {
		m = append(m, plan.IDRange{Container: r.GetContainerID(), Host: r.GetHostID(), Size: r.GetSize()})
	}
	return m
}

// checkMappings checks what the kernel would refuse (user_namespaces(7)). Prefix
// says where the fields are.
func checkMappings(prefix string, u *plan.Users) error {
	if err := checkMap(prefix+"uidMappings", u.UIDs); err != nil {
		return err
	}
	return checkMap(prefix+"gidMappings", u.GIDs)
}

func checkMap(field string, m plan.IDMap) error {
	const most, mostText = 340, 4096
	if len(m) == 0 || len(m) > most || len(m.Text()) >= mostText {
		return errorf("%s has %d ranges; there must be 1 to %d", field, len(m), most)
	}
	for i, r := range m {
		if r.Size == 0 || uint64(r.Host)+uint64(r.Size) > noID || uint64(r.Container)+uint64(r.Size) > noID {
			return errorf("%s[%d]: %d IDs from %d to %d are not possible", field, i, r.Size, r.Container, r.Host)
		}
		for _, other := range m[:i] {
			if overlap(r.Container, r.Size, other.Container, other.Size) || overlap(r.Host, r.Size, other.Host, other.Size) {
				return errorf("%s[%d]: %d IDs from %d to %d overlap others", field, i, r.Size, r.Container, r.Host)
			}
		}
	}
	return nil
}

func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// parseUsers reads the IDs of the container's user namespace.
func (c *Container) parseUsers(linux *ocipb.Linux) error {
	c.Users = users(linux.UIDMappings, linux.GIDMappings)
	own := c.Plan.Namespace(newUser)
	switch {
	case own == nil && c.Users.Given():
		return errorf("linux.uidMappings and gidMappings need a user namespace")
	case own == nil, own.Path != "" && !c.Users.Given():
		return nil
	}
	if err := checkMappings("linux.", &c.Users); err != nil {
		return err
	}
	if c.Users.Check(&plan.User{}) != nil {
		return errorf("linux.uidMappings and gidMappings must have ID 0, which sets the container up")
	}
	return c.Users.Check(&c.Plan.Process.User)
}
