package plan

import (
	"strconv"

	"kata/guest/fault"
	"kata/lib/fmt"
)

// IDRange maps IDs of a user namespace (user_namespaces(7)).
type IDRange struct{ Container, Host, Size uint32 }

// IDMap are the IDs of one kind.
type IDMap []IDRange

// Text is the mapping in the form of user_namespaces(7).
func (m IDMap) Text() string {
	var b []byte
	for _, r := range m {
		for i, n := range [...]uint32{r.Container, r.Host, r.Size} {
			b = append(strconv.AppendUint(b, uint64(n), 10), " \n"[i/2])
		}
	}
	return string(b)
}

// host returns the guest's ID of one of the container's.
func (m IDMap) host(id uint32, kind string) (uint32, error) {
	for _, r := range m {
		if id >= r.Container && id-r.Container < r.Size {
			return r.Host + id - r.Container, nil
		}
	}
	return 0, fault.New(fault.Invalid, fmt.Sprintf("%s %d is not mapped in the user namespace of the container", kind, id))
}

// equal compares mappings that are possible, in whatever order: in such there is
// no range twice.
func (m IDMap) equal(n IDMap) bool {
	for _, r := range m {
		found := false
		for _, other := range n {
			found = found || r == other
		}
		if !found {
			return false
		}
	}
	return len(m) == len(n)
}

// Users are the IDs of a user namespace.
type Users struct{ UIDs, GIDs IDMap }

// Given says whether there are any.
func (u *Users) Given() bool { return len(u.UIDs)+len(u.GIDs) > 0 }

// UID returns the guest's ID of one of the container's users.
func (u *Users) UID(id uint32) (uint32, error) { return u.UIDs.host(id, "user") }

// GID returns the guest's ID of one of the container's groups.
func (u *Users) GID(id uint32) (uint32, error) { return u.GIDs.host(id, "group") }

// Equal reports whether two user namespaces have the same IDs.
func (u *Users) Equal(v *Users) bool { return u.UIDs.equal(v.UIDs) && u.GIDs.equal(v.GIDs) }

// Check says which of a process's IDs is not mapped.
func (u *Users) Check(p *User) error {
	if _, err := u.UID(p.UID); err != nil {
		return unmapped("uid", err)
	}
	if _, err := u.GID(p.GID); err != nil {
		return unmapped("gid", err)
	}
	for _, gid := range p.Groups {
		if _, err := u.GID(gid); err != nil {
			return unmapped("additionalGids", err)
		}
	}
	return nil
}

func unmapped(field string, err error) error {
	return fault.New(fault.Invalid, "process.user."+field+": "+err.Error())
}
