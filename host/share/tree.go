package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	mu     sync.Mutex
	dir    string
	binds  map[string][]string // container to mount points below mounts, in order
	gone   map[string]int      // container to how often it was removed
	closed bool
}

// NewTree makes the tree in dir, which is created when missing.
func NewTree(dir string) (*Tree, error) {
	t := &Tree{dir: dir, binds: map[string][]string{}, gone: map[string]int{}}
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

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "", nil, fmt.Errorf("share %s: %w", source, os.ErrClosed)
	}
	folder := t.folder(cid)
	target := filepath.Join(t.mounts(), folder, name)
	if err := t.attach(bind, target); err != nil {
		t.prune(cid)
		return "", nil, fmt.Errorf("share %s: %w", source, err)
	}
	t.binds[cid] = append(t.binds[cid], target)
	undo := func() error { return t.remove(cid, target) }
	return filepath.Join(api.GuestShare, folder, name), undo, nil
}

// folder names the container's directory: its id, and something new each time
// the id comes back. The guest caches names, so under the old one it would go
// on seeing the old files for a while.
func (t *Tree) folder(cid string) string {
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
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, known := range t.binds[cid] {
		if known != target {
			continue
		}
		if err := detach(target); err != nil {
			return err
		}
		t.binds[cid] = append(t.binds[cid][:i:i], t.binds[cid][i+1:]...)
		err := os.Remove(target)
		t.prune(cid)
		return err
	}
	return nil
}

// RemoveContainer takes away all binds of a container, newest first. It is
// idempotent, and goes on after an error.
func (t *Tree) RemoveContainer(cid string) error {
	if err := checkContainerID(cid); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.binds[cid]; !ok {
		return nil
	}
	return t.removeContainer(cid)
}

func (t *Tree) removeContainer(cid string) error {
	var errs []error
	binds, left := t.binds[cid], []string(nil)
	for i := len(binds) - 1; i >= 0; i-- {
		if err := detach(binds[i]); err != nil {
			errs = append(errs, err)
			left = append([]string{binds[i]}, left...)
			continue
		}
		if err := os.Remove(binds[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	t.binds[cid] = left
	t.prune(cid)
	return errors.Join(errs...)
}

// prune forgets a container that has no binds left and removes its directories.
// They are empty then; if they are not, they stay for Close to drop with the
// tmpfs.
func (t *Tree) prune(cid string) {
	if len(t.binds[cid]) > 0 {
		return
	}
	folder := filepath.Join(t.mounts(), t.folder(cid))
	_ = unix.Rmdir(filepath.Join(folder, mountsName))
	_ = unix.Rmdir(folder)
	if _, ok := t.binds[cid]; ok {
		delete(t.binds, cid)
		t.gone[cid]++
	}
}

// Close removes every bind, both mounts and the directory. It is idempotent,
// and goes on after an error.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	var errs []error
	for cid := range t.binds {
		errs = append(errs, t.removeContainer(cid))
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
	t.closed = true
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
