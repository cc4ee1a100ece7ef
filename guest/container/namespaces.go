package container

import (
	"errors"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/container/apply"
	"kata/guest/container/nsexec"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// special returns how to start the stage of a container with a user or time
// namespace, or nil for others. The function releases what it holds.
func (c *Container) special(opts Options) (*nsexec.Program, func(), error) {
	all := &c.spec.Plan
	c.ownUsers = all.Namespace(unix.CLONE_NEWUSER) != nil
	c.ownTime = all.Namespace(unix.CLONE_NEWTIME) != nil
	if !c.ownUsers && !c.ownTime {
		return nil, func() {}, nil
	}
	var fds []int
	release := func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	p := &nsexec.Program{
		UIDMap: c.spec.Users.UIDs.Text(), GIDMap: c.spec.Users.GIDs.Text(),
		New: cloneFlags(all), Offsets: c.spec.TimeOffsets,
	}
	for _, n := range all.Namespaces {
		var err error
		switch {
		case n.Flag == unix.CLONE_NEWUSER && n.Path == "" && opts.JoinPID != nil:
			err = c.joinUsers(p, &fds, opts.JoinPID)
		case n.Path != "":
			err = joinPath(p, &fds, n)
		case n.Flag == unix.CLONE_NEWUSER, n.Flag == unix.CLONE_NEWTIME:
			p.New |= uintptr(n.Flag)
		}
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	return p, release, nil
}

// joinPath adds a namespace that has a path.
func joinPath(p *nsexec.Program, fds *[]int, n plan.Namespace) error {
	if n.Flag == unix.CLONE_NEWNS {
		return nil // the stage does that
	}
	fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s namespace %s: %w", n.Type, n.Path, err)
	}
	*fds = append(*fds, fd)
	joined := nsexec.Namespaces{FD: fd, Flags: n.Flag}
	switch n.Flag {
	case unix.CLONE_NEWUSER:
		p.Join = append(p.Join, joined)
	case unix.CLONE_NEWTIME: // with the rights of before
		p.Join = append([]nsexec.Namespaces{joined}, p.Join...)
	default:
		p.Enter = append(p.Enter, joined)
	}
	return nil
}

// joinUsers makes a container that shares another one's pid namespace share its
// users: a pid namespace belongs to one user namespace.
func (c *Container) joinUsers(p *nsexec.Program, fds *[]int, other *Container) error {
	if !other.ownUsers || !other.users.Equal(&c.spec.Users) {
		return refusef("linux.uidMappings and gidMappings are not those of container %s, whose pid namespace is shared", other.id)
	}
	fd, err := other.init.process.PIDFD()
	if err != nil {
		return fmt.Errorf("join the user namespace of container %s: %w", other.id, err)
	}
	*fds = append(*fds, fd)
	p.Join = append(p.Join, nsexec.Namespaces{FD: fd, Flags: unix.CLONE_NEWUSER})
	return nil
}

// visit runs f on a thread in the namespaces of the process of a pidfd; the
// thread ends afterwards.
func visit(pidfd, namespaces int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(pidfd, namespaces)
		}
		if err != nil {
			err = fmt.Errorf("enter the namespaces of a container: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// setSysctls sets the kernel parameters that a stage in a user namespace has no
// right to set, and returns what it shall try: those of its user namespace, and
// what newer kernels give to that.
func (c *Container) setSysctls() (rest []plan.Sysctl, err error) {
	sysctls := c.spec.Plan.Sysctls
	if len(sysctls) == 0 {
		return nil, nil
	}
	pidfd, err := c.init.process.PIDFD()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	var ours []plan.Sysctl
	for _, s := range sysctls {
		if strings.HasPrefix(s.Path, "user/") {
			rest = append(rest, s)
		} else {
			ours = append(ours, s)
		}
	}
	err = visit(pidfd, unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWNET, func() error {
		return apply.Sysctls(ours, func(s plan.Sysctl, err error) error {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				rest = append(rest, s)
				return nil
			}
			return err
		})
	})
	return rest, err
}

// SharedMount is a part of a running container's file system that another
// container gets too.
type SharedMount struct {
	// Name is for errors.
	Name   string
	Source *Container
	// Path is what is shared, a path in the source; Destination is where it
	// goes.
	Path, Destination string
}

// share adds a mount for each shared one, with its tree.
func share(p *plan.Plan, trees rootfs.Trees, shared []SharedMount) error {
	for _, s := range shared {
		tree, err := s.tree()
		if err != nil {
			return fmt.Errorf("shared mount %s: %s of container %s: %w", s.Name, s.Path, s.Source.id, err)
		}
		trees[len(p.Mounts)] = tree
		p.Mounts = append(p.Mounts, plan.Mount{
			Destination: s.Destination, Type: "bind", Source: s.Path, Options: mount.Options{Bind: true, Recursive: true},
		})
	}
	return nil
}

// tree returns what is shared.
func (s *SharedMount) tree() (tree *mount.Tree, err error) {
	pidfd, err := s.Source.init.process.PIDFD()
	if err != nil {
		return nil, ErrNotRunning
	}
	defer unix.Close(pidfd)
	err = visit(pidfd, unix.CLONE_NEWNS, func() error {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		fd, err := inroot.Open(root, s.Path, unix.O_PATH)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tree, err = mount.Bind(fd, true)
		return err
	})
	return tree, err
}
