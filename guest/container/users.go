package container

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/nsexec"
	"kata/guest/container/rootfs"
	"kata/guest/container/stage"
	"kata/lib/fmt"
)

// users are the IDs of a user namespace.
type users struct {
	uids, gids []*ocipb.LinuxIDMapping
}

// readUsers returns those of a process.
func readUsers(pid int) (*users, error) {
	u := &users{}
	for _, m := range [...]struct {
		file string
		to   *[]*ocipb.LinuxIDMapping
	}{{"uid_map", &u.uids}, {"gid_map", &u.gids}} {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + m.file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			var n [3]uint32
			for i, field := range strings.Fields(line) {
				id, err := strconv.ParseUint(field, 10, 32)
				if err != nil || i >= len(n) {
					return nil, fmt.Errorf("%s has the line %q", m.file, line)
				}
				n[i] = uint32(id)
			}
			*m.to = append(*m.to, &ocipb.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
		}
	}
	return u, nil
}

// host returns the guest's ID of one of the container's.
func (u *users) host(id uint32, group bool) (uint32, error) {
	mappings, kind := u.uids, "user"
	if group {
		mappings, kind = u.gids, "group"
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, nil
		}
	}
	return 0, specErrorf("%s %d is not mapped in the user namespace of the container", kind, id)
}

// equal reports whether two user namespaces have the same mappings, in whatever
// order.
func (u *users) equal(v *users) bool {
	return equalMappings(u.uids, v.uids) && equalMappings(u.gids, v.gids)
}

// equalMappings compares mappings that are valid, of which none is there twice.
func equalMappings(a, b []*ocipb.LinuxIDMapping) bool {
	for _, m := range a {
		found := false
		for _, n := range b {
			found = found || m.ContainerID == n.ContainerID && m.HostID == n.HostID && m.Size == n.Size
		}
		if !found {
			return false
		}
	}
	return len(a) == len(b) // no two of a's are the same
}

// check says which of a process's IDs is not mapped.
func (u *users) check(p *ocipb.User) error {
	if _, err := u.host(p.GetUID(), false); err != nil {
		return specErrorf("process.user.uid: %v", err)
	}
	if _, err := u.host(p.GetGID(), true); err != nil {
		return specErrorf("process.user.gid: %v", err)
	}
	for _, gid := range p.GetAdditionalGids() {
		if _, err := u.host(gid, true); err != nil {
			return specErrorf("process.user.additionalGids: %v", err)
		}
	}
	return nil
}

// own gives streams to the container's root, who gives them to the user.
func (u *users) own(stdio Stdio) error {
	uid, err := u.host(0, false)
	if err != nil {
		return err
	}
	gid, err := u.host(0, true)
	if err != nil {
		return err
	}
	for _, f := range [...]*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
		if f == nil {
			continue
		}
		// A file that was opened for the container is not the agent's to give.
		if err := f.Chown(int(uid), int(gid)); err != nil {
			return fmt.Errorf("give a standard stream to user %d: %w", uid, err)
		}
	}
	return nil
}

// mapText is mappings in the form of user_namespaces(7).
func mapText(mappings []*ocipb.LinuxIDMapping) string {
	var b []byte
	for _, m := range mappings {
		for i, n := range [...]uint32{m.ContainerID, m.HostID, m.Size} {
			b = append(strconv.AppendUint(b, uint64(n), 10), " \n"[i/2])
		}
	}
	return string(b)
}

// settle finds out which users the container has, once its stage runs in its
// user namespace.
func (c *Container) settle(stdio Stdio) (err error) {
	if c.users, err = readUsers(c.init.PID()); err != nil {
		return fmt.Errorf("read the ID mappings: %w", err)
	}
	if l := c.spec.Linux; len(l.UIDMappings)+len(l.GIDMappings) > 0 && !c.users.equal(&users{l.UIDMappings, l.GIDMappings}) {
		return specErrorf("linux.uidMappings and gidMappings are not those of the user namespace that is joined")
	}
	if err := c.users.check(c.spec.Process.User); err != nil {
		return err
	}
	return c.users.own(stdio)
}

// outside makes the mounts that the stage cannot make.
func (c *Container) outside(trees rootfs.Trees, sharesPIDs bool) error {
	err := trees.IDMapped(c.spec, func(m *ocipb.Mount) (int, error) {
		if len(m.UIDMappings) > 0 {
			return c.rt.userNamespace(m)
		}
		return unix.Open(fmt.Sprintf("/proc/%d/ns/user", c.init.PID()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil || c.users == nil || stage.JoinsMounts(c.spec) {
		return err
	}
	spec := c.spec
	if sharesPIDs { // which are not the guest's
		copied := *spec.Linux
		copied.Namespaces = append(slices.Clone(copied.Namespaces), &ocipb.LinuxNamespace{Type: "pid"})
		spec = &ocipb.Spec{Process: spec.Process, Root: spec.Root, Mounts: spec.Mounts, Linux: &copied}
	}
	return trees.Outside(spec, c.users.host)
}

// userNamespace returns a descriptor of a new user namespace with the mappings
// of a mount.
func (r *Runtime) userNamespace(m *ocipb.Mount) (int, error) {
	p, err := r.startStage(stageStart{
		args: []string{"kata-agent", stage.Argument, stage.Create, "mapping"},
		born: &nsexec.Program{New: unix.CLONE_NEWUSER, UIDMap: mapText(m.UIDMappings), GIDMap: mapText(m.GIDMappings)},
	})
	if err != nil {
		return -1, fmt.Errorf("a user namespace for the ID mappings: %w", err)
	}
	defer p.abandon() // it waits for its job
	return unix.Open(fmt.Sprintf("/proc/%d/ns/user", p.PID()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// grant sets what takes rights outside of a container's user namespace, for a
// process whose stage is ready.
func (p *Process) grant(process *ocipb.Process) error {
	score := process.OOMScoreAdj
	if process.OOMScoreAdjUnset {
		score = 0
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID()), strconv.AppendInt(nil, score, 10), 0); err != nil {
		return fmt.Errorf("set oom_score_adj to %d: %w", score, err)
	}
	for _, limit := range process.Rlimits {
		number, _ := stage.Rlimit(limit.Type) // Validate knows that there is one
		if err := unix.Prlimit(p.PID(), number, &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}, nil); err != nil {
			return fmt.Errorf("set %s to %d, %d: %w", limit.Type, limit.Soft, limit.Hard, err)
		}
	}
	return stage.SetPriorities(p.PID(), process)
}
