// Package rootfs builds a container's root file system inside the mount
// namespace of its init stage and makes it the root.
//
// The image, and other containers that share a volume with this one, may have
// prepared the tree: with symbolic links where mounts go, with a /dev/null that
// is something else, with a directory that turns into a link in the middle.
// Therefore every target is resolved once, inside the root, to a descriptor
// (package inroot), mounts are attached to descriptors (package mount), what a
// path is masked with comes from the agent's own /dev, and nothing is mounted
// on procfs except what is known to be harmless there. See CVE-2019-19921,
// CVE-2021-30465, CVE-2025-31133.
//
// Life cycle, all on one thread of a process that is alone in a new mount
// namespace: [Prepare], [Root.Terminal] if there is one, [Root.Pivot],
// [Root.Seal]. On an error the process gives up; its mounts go with it.
package rootfs

import (
	"errors"
	"path"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// Root is a root file system that is being built.
type Root struct {
	tree  *mount.Tree // the root's mount
	null  int         // O_PATH descriptor of the agent's /dev/null
	trees Trees       // what is still to be attached
	nodes *mount.Tree // device nodes, for a container that cannot make any
	// sealed are mounts to make read-only at the end: mount points and device
	// nodes are still to be made in them.
	sealed []*mount.Tree
}

// Prepare mounts the container's root file system and everything below it. The
// caller's mount namespace must be its own; mounts stop propagating out of it,
// unless the plan says so. Trees are those that the caller has been given,
// which Prepare uses up. Working directory and root stay as they are.
func Prepare(p *plan.Plan, trees Trees) (*Root, error) {
	if trees == nil {
		trees = make(Trees)
	}
	r := &Root{trees: trees}
	given := trees[RootTree] != nil
	if p.Root.KeepsPeers() {
		// Before their originals stop being the peers of the outside's.
		if err := trees.bindMounts(p.Mounts); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("stop mount propagation: %w", err)
	}
	if err := r.openNull(); err != nil {
		return nil, err
	}
	if !given {
		if err := trees.bindRoot(p.Root.Path); err != nil {
			return nil, err
		}
	}
	if err := trees.bindMounts(p.Mounts); err != nil {
		return nil, err
	}
	if err := r.attachRoot(p.Root.Path, given); err != nil {
		return nil, fmt.Errorf("root file system %s: %w", p.Root.Path, err)
	}
	for i := range p.Mounts {
		if err := r.mount(i, &p.Mounts[i]); err != nil {
			return nil, fmt.Errorf("mount %s: %w", p.Mounts[i].Destination, err)
		}
	}
	if !bindsDev(p.Mounts) {
		if err := r.makeDevices(p.Devices); err != nil {
			return nil, err
		}
	}
	if p.Process.Cwd != "" {
		if err := r.makeCwd(p.Process.Cwd); err != nil {
			return nil, err
		}
	}
	if err := r.protect(p.Readonly, p.Masked); err != nil {
		return nil, err
	}
	if p.Root.Readonly {
		r.sealed = append(r.sealed, r.tree)
	}
	return r, nil
}

// FD is an O_PATH descriptor of the root, for resolving paths in it. It
// belongs to the Root.
func (r *Root) FD() int { return r.tree.FD() }

// openNull opens the agent's /dev/null, which no container can have touched,
// and makes sure that it is that device.
func (r *Root) openNull() error {
	fd, err := unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the guest's /dev/null: %w", err)
	}
	if !IsNull(fd) {
		unix.Close(fd)
		return errors.New("the guest's /dev/null is not the null device")
	}
	r.null = fd
	return nil
}

// IsNull reports whether a descriptor is open on the null device.
func IsNull(fd int) bool {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// attachRoot mounts the root on itself, since pivot_root(2) wants a mount. One
// that was given is mounted on the old root, where it is out of the way: the
// caller may not have the right to reach its own place.
func (r *Root) attachRoot(path string, given bool) error {
	r.tree = r.trees[RootTree]
	delete(r.trees, RootTree)
	if given {
		path = "/"
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if r.nodes = r.trees[NodesTree]; r.nodes != nil {
		delete(r.trees, NodesTree)
		// Below the root: only what is attached can be bind-mounted.
		if err := r.nodes.Attach(fd); err != nil {
			return err
		}
	}
	return r.tree.Attach(fd)
}

// makeCwd makes the working directory if it is missing, as runc does.
func (r *Root) makeCwd(cwd string) error {
	fd, err := inroot.MkdirAll(r.FD(), cwd, 0o755)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOTDIR):
		return nil // entering it will say what is wrong
	}
	return fmt.Errorf("working directory: %w", err)
}

// bindsDev reports whether /dev comes from outside, with all that is in it.
func bindsDev(mounts []plan.Mount) bool {
	for i := range mounts {
		if m := &mounts[i]; path.Clean(m.Destination) == "/dev" && m.IsBind() {
			return true
		}
	}
	return false
}

// protect makes paths read-only and hides others. What does not exist needs
// neither.
func (r *Root) protect(readonly, masked []string) error {
	for _, path := range readonly {
		if err := r.ifExists(path, r.makeReadonly); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	for _, path := range masked {
		if err := r.ifExists(path, r.mask); err != nil {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	return nil
}

func (r *Root) ifExists(path string, f func(target int) error) error {
	target, err := inroot.Open(r.FD(), path, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return f(target)
}

func (r *Root) makeReadonly(target int) error {
	tree, err := mount.Bind(target, true)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := tree.SetAttr(mount.Attr{Set: unix.MOUNT_ATTR_RDONLY}, true); err != nil {
		return err
	}
	return tree.Attach(target)
}

// mask hides a directory behind an empty one and anything else behind the null
// device. The null device is read-only: reading and writing it go on, but its
// node, which is the agent's, cannot be changed.
func (r *Root) mask(target int) error {
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	readonly := mount.Attr{Set: unix.MOUNT_ATTR_RDONLY}
	var tree *mount.Tree
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		tree, err = mount.FS("tmpfs", "tmpfs", nil, readonly)
	} else if tree, err = mount.Bind(r.null, false); err == nil {
		err = tree.SetAttr(readonly, false)
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	return tree.Attach(target)
}

// Pivot makes the root the process's root and working directory and unmounts
// everything else (pivot_root(2), "pivot_root(".", ".")"). Propagation is MS_*, 0 for what it is.
func (r *Root) Pivot(propagation uint64) error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Fchdir(r.FD()); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	// Unmounting must not reach the mounts that ours are copies of.
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if r.nodes != nil { // on top of the old root
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach the device nodes: %w", err)
		}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if propagation == 0 {
		return nil
	}
	if err := r.tree.SetPropagation(propagation); err != nil {
		return fmt.Errorf("set the propagation of the root: %w", err)
	}
	return nil
}

// Seal makes read-only what is to be so and releases the Root.
func (r *Root) Seal() error {
	for _, tree := range r.sealed {
		if err := tree.SetAttr(mount.Attr{Set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
			return fmt.Errorf("make a mount read-only: %w", err)
		}
		if tree != r.tree {
			tree.Close()
		}
	}
	unix.Close(r.null)
	if r.nodes != nil {
		r.nodes.Close()
	}
	return r.tree.Close()
}
