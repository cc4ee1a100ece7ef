package container

import (
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/nsexec"
	"kata/guest/container/rootfs"
	"kata/guest/container/stage"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// special returns how to start the stage of a container with a user or time
// namespace, or nil for others. The function releases what it holds.
func (c *Container) special(opts Options) (*nsexec.Program, func(), error) {
	namespaces := c.spec.Linux.GetNamespaces()
	for _, n := range namespaces {
		c.ownUsers = c.ownUsers || n.Type == "user"
		c.ownTime = c.ownTime || n.Type == "time"
	}
	if !c.ownUsers && !c.ownTime {
		return nil, func() {}, nil
	}
	var fds []int
	release := func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	linux := c.spec.Linux
	p := &nsexec.Program{
		UIDMap: mapText(linux.UIDMappings), GIDMap: mapText(linux.GIDMappings),
		New: cloneFlags(c.spec), Offsets: offsets(linux.TimeOffsets),
	}
	for _, n := range namespaces {
		flag, _ := stage.NamespaceFlag(n.Type) // Validate knows that there is one
		var err error
		switch {
		case flag == unix.CLONE_NEWUSER && n.Path == "" && opts.JoinPID != nil:
			err = c.joinUsers(p, &fds, opts.JoinPID)
		case n.Path != "":
			err = joinPath(p, &fds, n, flag)
		case flag == unix.CLONE_NEWUSER, flag == unix.CLONE_NEWTIME:
			p.New |= uintptr(flag)
		}
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	return p, release, nil
}

// joinPath adds a namespace that has a path.
func joinPath(p *nsexec.Program, fds *[]int, n *ocipb.LinuxNamespace, flag int) error {
	if flag == unix.CLONE_NEWNS {
		return nil // the stage does that
	}
	fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s namespace %s: %w", n.Type, n.Path, err)
	}
	*fds = append(*fds, fd)
	joined := nsexec.Namespaces{FD: fd, Flags: flag}
	switch flag {
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
	want := &users{c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings}
	if other.users == nil || !other.users.equal(want) {
		return specErrorf("linux.uidMappings and gidMappings are not those of container %s, whose pid namespace is shared", other.id)
	}
	fd, err := other.init.process.PIDFD()
	if err != nil {
		return fmt.Errorf("join the user namespace of container %s: %w", other.id, err)
	}
	*fds = append(*fds, fd)
	p.Join = append(p.Join, nsexec.Namespaces{FD: fd, Flags: unix.CLONE_NEWUSER})
	return nil
}

// offsets is the text for the offsets of a time namespace.
func offsets(given map[string]*ocipb.LinuxTimeOffset) string {
	var b []byte
	for clock, o := range given {
		b = append(b, clock...)
		b = strconv.AppendInt(append(b, ' '), o.GetSecs(), 10)
		b = strconv.AppendUint(append(b, ' '), uint64(o.GetNanosecs()), 10)
		b = append(b, '\n')
	}
	return string(b)
}

// withCgroupNamespace returns spec with a cgroup namespace, a new one if it names
// none: the container's own group is what it sees at /sys/fs/cgroup and in
// /proc/self/cgroup, as under runc on a host with cgroup v2. Clients on a host
// with v1 ask for no such namespace; there the mount alone shows the container's
// groups.
func withCgroupNamespace(spec *ocipb.Spec) *ocipb.Spec {
	for _, n := range spec.Linux.GetNamespaces() {
		if n.Type == "cgroup" {
			return spec
		}
	}
	copied, linux := *spec, ocipb.Linux{}
	if spec.Linux != nil {
		linux = *spec.Linux
	}
	linux.Namespaces = append(slices.Clone(linux.Namespaces), &ocipb.LinuxNamespace{Type: "cgroup"})
	copied.Linux = &linux
	return &copied
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
func (c *Container) setSysctls() (rest map[string]string, err error) {
	sysctls := c.spec.Linux.GetSysctl()
	if len(sysctls) == 0 {
		return nil, nil
	}
	pidfd, err := c.init.process.PIDFD()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	rest = make(map[string]string)
	ours := make(map[string]string)
	for key, value := range sysctls {
		if strings.HasPrefix(stage.SysctlPath(key), "user/") {
			rest[key] = value
		} else {
			ours[key] = value
		}
	}
	return rest, visit(pidfd, unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWNET, func() error {
		return stage.SetSysctls(ours, func(key string, err error) error {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				rest[key] = ours[key]
				return nil
			}
			return err
		})
	})
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

// share returns a copy of spec with a mount for each shared one, whose trees it
// adds.
func share(spec *ocipb.Spec, trees rootfs.Trees, shared []SharedMount) (*ocipb.Spec, error) {
	if len(shared) == 0 {
		return spec, nil
	}
	copied := *spec
	copied.Mounts = copied.Mounts[:len(copied.Mounts):len(copied.Mounts)]
	for _, s := range shared {
		tree, err := s.tree()
		if err != nil {
			return nil, fmt.Errorf("shared mount %s: %s of container %s: %w", s.Name, s.Path, s.Source.id, err)
		}
		trees[len(copied.Mounts)] = tree
		copied.Mounts = append(copied.Mounts, &ocipb.Mount{
			Destination: s.Destination, Type: "bind", Source: s.Path, Options: []string{"rbind"},
		})
	}
	return &copied, nil
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
