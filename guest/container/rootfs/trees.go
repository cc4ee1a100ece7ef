package rootfs

import (
	"errors"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// Places of trees, beside the indices of the plan's mounts.
const (
	RootTree  = -1 // the root file system
	NodesTree = -2 // the device nodes of a container that cannot make any; see Nodes
)

// Trees are mounts that are attached nowhere yet, by the place where they go:
// the index of a mount of the plan, or one of the constants.
//
// What is bind-mounted is looked up before anything of the container is made.
// Where the process that makes the container has not the rights to do so, or
// to make a file system, the runtime hands it trees.
type Trees map[int]*mount.Tree

// Close destroys the trees that have not been attached.
func (t Trees) Close() {
	for _, tree := range t {
		tree.Close()
	}
}

// bindRoot adds the tree of the root file system.
func (t Trees) bindRoot(root string) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		t[RootTree], err = mount.Bind(fd, true)
	}
	if err != nil {
		return fmt.Errorf("root file system %s: %w", root, err)
	}
	return nil
}

// bindMounts adds the trees of the bind mounts that are not there.
func (t Trees) bindMounts(mounts []plan.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if t[i] != nil || !m.IsBind() {
			continue
		}
		tree, err := bindSource(m.Source, m.Options.Recursive)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		t[i] = tree
	}
	return nil
}

func bindSource(source string, recursive bool) (*mount.Tree, error) {
	fd, err := openSource(source)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	tree, err := mount.Bind(fd, recursive)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", source, err)
	}
	return tree, nil
}

// openSource opens what a bind mount shows. A source is a path that the agent
// or the host chose; links in it are followed, except procfs's magic ones.
func openSource(source string) (int, error) {
	if !path.IsAbs(source) {
		return -1, fmt.Errorf("source %q of a bind mount is not absolute", source)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, source, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("source %s: %w", source, err)
	}
	return fd, nil
}

// IDMapped adds the trees of the ID-mapped mounts. Users returns a descriptor of
// a user namespace with the mappings of a mount, which belongs to the callee.
func (t Trees) IDMapped(mounts []plan.Mount, users func(m *plan.Mount) (int, error)) error {
	for i := range mounts {
		m := &mounts[i]
		if !m.Options.IDMap && !m.IDs.Given() {
			continue
		}
		if err := t.idMapped(i, m, users); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

func (t Trees) idMapped(i int, m *plan.Mount, users func(m *plan.Mount) (int, error)) error {
	namespace, err := users(m)
	if err != nil {
		return err
	}
	defer unix.Close(namespace)
	tree, err := bindSource(m.Source, m.Options.Recursive)
	if err != nil {
		return err
	}
	t[i] = tree
	err = tree.SetIDMap(namespace, m.Options.IDMapRecursive)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the file system of %s has no ID-mapped mounts in this kernel: %w", m.Source, err)
	}
	return err
}

// Outside adds what a process in a user namespace of its own cannot have: trees
// of places that its user may not reach, file systems of namespaces that are
// not its own, device nodes, whose owners users have. SharesPIDs says that the
// container's pid namespace is another one's, and none of the plan's.
func (t Trees) Outside(p *plan.Plan, users *plan.Users, sharesPIDs bool) error {
	if err := t.bindRoot(p.Root.Path); err != nil {
		return err
	}
	if err := t.bindMounts(p.Mounts); err != nil {
		return err
	}
	for i := range p.Mounts {
		m := &p.Mounts[i]
		if t[i] != nil || !needsRights(p, m.Type, sharesPIDs) {
			continue
		}
		tree, err := ownFS(m)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		t[i] = tree
	}
	if !p.Root.KeepsPeers() {
		for _, tree := range t {
			if err := tree.SetPropagation(unix.MS_SLAVE | unix.MS_REC); err != nil {
				return fmt.Errorf("stop mount propagation: %w", err)
			}
		}
	} else if err := t[RootTree].SetPropagation(unix.MS_SLAVE | unix.MS_REC); err != nil {
		return fmt.Errorf("stop mount propagation: %w", err)
	}
	return t.makeNodes(p.Devices, users)
}

// needsRights says whether a file system shows a namespace of the guest, which
// takes rights there to mount: those of the network are always the pod's.
func needsRights(p *plan.Plan, fstype string, sharesPIDs bool) bool {
	switch fstype {
	case "sysfs":
		return true
	case "proc":
		return !sharesPIDs && p.Namespace(unix.CLONE_NEWPID) == nil
	case "mqueue":
		return p.Namespace(unix.CLONE_NEWIPC) == nil
	case "cgroup", "cgroup2":
		return p.Namespace(unix.CLONE_NEWCGROUP) == nil
	}
	return false
}

func ownFS(m *plan.Mount) (*mount.Tree, error) {
	o := &m.Options
	fstype, params := m.Type, o.Data
	if fstype == "cgroup" || fstype == "cgroup2" {
		fstype, params = "cgroup2", nil
	}
	return mount.FS(fstype, fstype, params, mount.Attr{Set: o.Attr.Then(o.AttrRec).Set})
}

// makeNodes adds a file system with the device nodes of the container, whose
// names are the indices of what nodes returns.
func (t Trees) makeNodes(devices []plan.Device, users *plan.Users) error {
	tree, err := mount.FS("tmpfs", "nodes", []mount.Param{{Key: "mode", Value: "755"}}, mount.Attr{})
	if err != nil {
		return fmt.Errorf("a place for device nodes: %w", err)
	}
	t[NodesTree] = tree
	for i, d := range nodes(devices) {
		if d.Kind == unix.S_IFIFO {
			continue // anybody may make a fifo
		}
		if err := makeNode(tree.FD(), strconv.Itoa(i), &d, users); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	return nil
}

func makeNode(dir int, name string, d *plan.Device, users *plan.Users) error {
	uid, err := users.UID(d.UID)
	if err != nil {
		return err
	}
	gid, err := users.GID(d.GID)
	if err != nil {
		return err
	}
	if err := unix.Mknodat(dir, name, d.Kind|d.Mode, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return err
	}
	if err := unix.Fchownat(dir, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(dir, name, d.Mode, 0) // whatever the umask is
}
