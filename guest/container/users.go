package container

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/container/apply"
	"kata/guest/container/nsexec"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/lib/fmt"
)

// readUsers returns the IDs of a process's user namespace.
func readUsers(pid int) (u plan.Users, err error) {
	for _, m := range [...]struct {
		file string
		to   *plan.IDMap
	}{{"uid_map", &u.UIDs}, {"gid_map", &u.GIDs}} {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + m.file)
		if err != nil {
			return u, err
		}
		for line := range strings.Lines(string(text)) {
			var n [3]uint32
			for i, field := range strings.Fields(line) {
				id, err := strconv.ParseUint(field, 10, 32)
				if err != nil || i >= len(n) {
					return u, fmt.Errorf("%s has the line %q", m.file, line)
				}
				n[i] = uint32(id)
			}
			*m.to = append(*m.to, plan.IDRange{Container: n[0], Host: n[1], Size: n[2]})
		}
	}
	return u, nil
}

// own gives streams to the container's root, who gives them to the user.
func own(u *plan.Users, stdio Stdio) error {
	uid, err := u.UID(0)
	if err != nil {
		return err
	}
	gid, err := u.GID(0)
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

// findUsers finds out which users the container has, once its stage runs in its
// user namespace.
func (c *Container) findUsers(stdio Stdio) (err error) {
	if c.users, err = readUsers(c.init.PID()); err != nil {
		return fmt.Errorf("read the ID mappings: %w", err)
	}
	if given := &c.spec.Users; given.Given() && !c.users.Equal(given) {
		return refusef("linux.uidMappings and gidMappings are not those of the user namespace that is joined")
	}
	if err := c.users.Check(&c.spec.Plan.Process.User); err != nil {
		return err
	}
	return own(&c.users, stdio)
}

// outside makes the mounts that the stage cannot make.
func (c *Container) outside(trees rootfs.Trees, sharesPIDs bool) error {
	p := &c.spec.Plan
	err := trees.IDMapped(p.Mounts, func(m *plan.Mount) (int, error) {
		if m.IDs.Given() {
			return c.rt.userNamespace(&m.IDs)
		}
		return unix.Open(fmt.Sprintf("/proc/%d/ns/user", c.init.PID()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil || !c.ownUsers || p.JoinsMounts() {
		return err
	}
	return trees.Outside(p, &c.users, sharesPIDs)
}

// userNamespace returns a descriptor of a new user namespace.
func (r *Runtime) userNamespace(u *plan.Users) (int, error) {
	p, err := r.startStage(stageStart{
		args:   []string{"kata-agent", plan.Argument, plan.Create, "mapping"},
		nsexec: &nsexec.Program{New: unix.CLONE_NEWUSER, UIDMap: u.UIDs.Text(), GIDMap: u.GIDs.Text()},
	})
	if err != nil {
		return -1, fmt.Errorf("a user namespace for the ID mappings: %w", err)
	}
	defer p.abandon() // it waits for its plan
	return unix.Open(fmt.Sprintf("/proc/%d/ns/user", p.PID()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// grant sets what takes rights outside of a container's user namespace, for a
// process whose stage is ready.
func (p *Process) grant(to *plan.Process) error {
	score := strconv.Itoa(to.OOMScoreAdj)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID()), []byte(score), 0); err != nil {
		return fmt.Errorf("set oom_score_adj to %s: %w", score, err)
	}
	for _, limit := range to.Rlimits {
		if err := unix.Prlimit(p.PID(), limit.Resource, &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}, nil); err != nil {
			return fmt.Errorf("set %s to %d, %d: %w", limit.Name, limit.Soft, limit.Hard, err)
		}
	}
	return apply.Priorities(p.PID(), to)
}
