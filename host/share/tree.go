package share

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"kata/api"
)

const (
	treeSize   = "size=1m,mode=0755" // directories and empty files only
	mountsName = "mounts"            // where binds are made
	exportName = "shared"            // the read-only view of it
	rootfsName = "rootfs"            // in a container's directory
)

// Tree is the directory that a pod's virtiofsd serves. It is made of two
// mounts under one directory: "mounts", a small tmpfs where binds are made,
// and "shared", a read-only bind of it that is its slave. A bind made in
// mounts appears in shared, and in the mount namespace of a virtiofsd that
// started before, by propagation; the read-only flag of shared covers the top
// only, so each bind keeps its own mode.
//
// A Tree belongs to the mount namespace it was made in, which must be private
// to the pod. Methods may be called concurrently.
type Tree struct {
	dir string

	// mu guards what follows; nothing is mounted or unmounted under it.
	mu         sync.Mutex
	containers map[string]*shared
	gone       map[string]int // container to how often it was removed
	closing    bool           // nothing is added any more
	closed     bool
}

// shared is what is bound of one container. Only its own callers wait for its
// mounts.
type shared struct {
	folder string

	ops   sync.Mutex // held while its mounts change
	binds []string   // mount points, in order
	dead  bool       // it was removed; whoever waited for ops looks again
}

// NewTree makes the tree in dir, which is created when missing.
func NewTree(dir string) (*Tree, error) {
	t := &Tree{dir: dir, containers: map[string]*shared{}, gone: map[string]int{}}
	if err := t.mount(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Tree) mount() error {
	for _, dir := range []string{t.dir, t.mounts(), t.Export()} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make share directory: %w", err)
		}
	}
	steps := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"kata-share", t.mounts(), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, treeSize},
		// Private first: out of any peer group the parent may have put it in.
		{"", t.mounts(), "", unix.MS_PRIVATE, ""},
		{"", t.mounts(), "", unix.MS_SHARED, ""},
		{t.mounts(), t.Export(), "", unix.MS_BIND, ""},
		{"", t.Export(), "", unix.MS_SLAVE, ""},
		{"", t.Export(), "", unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV, ""},
	}
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, s.data); err != nil {
			return fmt.Errorf("mount share at %s: %w", s.target, err)
		}
	}
	return nil
}

func (t *Tree) mounts() string { return filepath.Join(t.dir, mountsName) }

// Export returns the directory for virtiofsd to serve.
func (t *Tree) Export() string { return filepath.Join(t.dir, exportName) }

// MountPoints returns where a tree in dir mounts, in order.
func MountPoints(dir string) []string {
	return []string{filepath.Join(dir, mountsName), filepath.Join(dir, exportName)}
}

// RootfsTarget returns where the container's next AddRootfs mounts.
func (t *Tree) RootfsTarget(cid string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return filepath.Join(t.mounts(), t.folder(cid), rootfsName)
}

// BindTarget returns where the container's next AddBind with the same number and
// source mounts.
func (t *Tree) BindTarget(cid string, n int, source string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return filepath.Join(t.mounts(), t.folder(cid), bindName(n, source))
}

// bindName is a bind's path in the container's directory.
func bindName(n int, source string) string {
	name := strconv.Itoa(n) + "-" + filepath.Base(filepath.Clean("/"+source))
	const maxName = 255
	if len(name) > maxName {
		name = name[:maxName]
	}
	return filepath.Join(mountsName, strings.ReplaceAll(name, "/", ""))
}

// AddRootfs binds source, a mounted root file system, with everything mounted
// below it, as the container's rootfs, and returns its path in the guest. With
// readonly no mount of it can be written through the share. undo removes the
// bind and may be called after RemoveContainer or Close.
func (t *Tree) AddRootfs(cid, source string, readonly bool) (guestPath string, undo func() error, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", nil, fmt.Errorf("share rootfs: %w", err)
	}
	if !info.IsDir() {
		return "", nil, fmt.Errorf("share rootfs %s: %w", source, unix.ENOTDIR)
	}
	return t.add(cid, rootfsName, source, readonly, true)
}

// AddBind binds source, a directory or anything else that has a path, as the
// container's mount number n, and returns its path in the guest. recursive
// takes along what is mounted below a directory.
func (t *Tree) AddBind(cid string, n int, source string, readonly, recursive bool) (guestPath string, undo func() error, err error) {
	if n < 0 {
		return "", nil, fmt.Errorf("share %s: negative mount number %d", source, n)
	}
	return t.add(cid, bindName(n, source), source, readonly, recursive)
}

func (t *Tree) add(cid, name, source string, readonly, recursive bool) (string, func() error, error) {
	if err := checkContainerID(cid); err != nil {
		return "", nil, err
	}
	bind, err := cloneMount(source, readonly, recursive)
	if err != nil {
		return "", nil, err
	}
	defer bind.Close()

	c, err := t.lock(cid)
	if err != nil {
		return "", nil, fmt.Errorf("share %s: %w", source, err)
	}
	defer c.ops.Unlock()
	target := filepath.Join(t.mounts(), c.folder, name)
	if err := t.attach(bind, target); err != nil {
		t.prune(cid, c)
		return "", nil, fmt.Errorf("share %s: %w", source, err)
	}
	c.binds = append(c.binds, target)
	undo := func() error { return t.remove(cid, target) }
	return filepath.Join(api.GuestShare, c.folder, name), undo, nil
}

// lock returns a container, made if it is not there, with its ops held.
func (t *Tree) lock(cid string) (*shared, error) {
	for {
		t.mu.Lock()
		if t.closing {
			t.mu.Unlock()
			return nil, os.ErrClosed
		}
		c, ok := t.containers[cid]
		if !ok {
			c = &shared{folder: t.folder(cid)}
			t.containers[cid] = c
		}
		t.mu.Unlock()
		c.ops.Lock()
		if !c.dead {
			return c, nil
		}
		c.ops.Unlock()
	}
}

// folder names the container's directory: its id, and something new each time
// the id comes back. The guest caches names, so under the old one it would go
// on seeing the old files for a while.
func (t *Tree) folder(cid string) string {
	if c, ok := t.containers[cid]; ok {
		return c.folder
	}
	if n := t.gone[cid]; n > 0 {
		return cid + "~" + strconv.Itoa(n)
	}
	return cid
}

// attach puts a detached mount at a fresh target.
func (t *Tree) attach(bind *detachedMount, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := makeTarget(target, bind.isDir); err != nil {
		return err
	}
	if err := bind.moveTo(target); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

// remove takes away one bind of a container.
func (t *Tree) remove(cid, target string) error {
	c := t.find(cid)
	if c == nil {
		return nil
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	i := slices.Index(c.binds, target)
	if i < 0 {
		return nil
	}
	if err := detach(target); err != nil {
		return err
	}
	c.binds = slices.Delete(c.binds, i, i+1)
	err := os.Remove(target)
	t.prune(cid, c)
	return err
}

func (t *Tree) find(cid string) *shared {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.containers[cid]
}

// RemoveContainer takes away all binds of a container, newest first. It is
// idempotent, and goes on after an error.
func (t *Tree) RemoveContainer(cid string) error {
	if err := checkContainerID(cid); err != nil {
		return err
	}
	c := t.find(cid)
	if c == nil {
		return nil
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	var errs []error
	var left []string
	for _, target := range slices.Backward(c.binds) {
		if err := detach(target); err != nil {
			errs = append(errs, err)
			left = append(left, target)
			continue
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	slices.Reverse(left)
	c.binds = left
	t.prune(cid, c)
	return errors.Join(errs...)
}

// prune forgets a container that has no binds left and removes its directories;
// its ops are held. They are empty then; if they are not, they stay for Close to
// drop with the tmpfs. The next container of the id has another folder.
func (t *Tree) prune(cid string, c *shared) {
	if len(c.binds) > 0 || c.dead {
		return
	}
	c.dead = true
	folder := filepath.Join(t.mounts(), c.folder)
	_ = unix.Rmdir(filepath.Join(folder, mountsName))
	_ = unix.Rmdir(folder)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.containers, cid)
	t.gone[cid]++
}

// Close removes every bind, both mounts and the directory. It is idempotent,
// and goes on after an error.
func (t *Tree) Close() error {
	t.mu.Lock()
	t.closing = true
	closed, ids := t.closed, slices.Collect(maps.Keys(t.containers))
	t.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, cid := range ids {
		errs = append(errs, t.RemoveContainer(cid))
	}
	for _, dir := range []string{t.Export(), t.mounts()} {
		if err := detach(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, &os.PathError{Op: "remove", Path: dir, Err: err})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	_ = unix.Rmdir(t.dir) // stays when the caller has other things in it
	return nil
}

// checkContainerID keeps an id from naming anything but one directory.
func checkContainerID(cid string) error {
	if cid == "" || cid == "." || cid == ".." || strings.ContainsAny(cid, "/\x00") {
		return fmt.Errorf("share: container id %q cannot be a directory name", cid)
	}
	return nil
}
