package storage

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/ownedfd"
)

// attach puts tree, of which it takes ownership, on the mount point of j. The
// tree's descriptor is kept to unmount it by: the path may lead elsewhere by
// then.
func (m *Manager) attach(tree *mount.Tree, options *mount.Options, j *job, directory bool) (release, error) {
	fail := func(err error) (release, error) {
		return nil, errors.Join(failed("mount on "+j.MountPoint, err), tree.Close())
	}
	if err := tree.Configure(options); err != nil {
		return fail(err)
	}
	point, err := m.makePoint(j.MountPoint, directory)
	if err != nil {
		return fail(err)
	}
	defer point.close()
	if err := point.fd.Use(tree.Attach); err != nil {
		return fail(errors.Join(err, point.remove()))
	}
	undo := func() error {
		err := unix.Unmount(procPath(tree.FD()), unix.MNT_DETACH)
		if err != nil {
			err = failed("unmount "+j.MountPoint, err)
		}
		return errors.Join(err, tree.Close(), point.remove())
	}
	if err := tree.Propagate(options); err != nil {
		return nil, errors.Join(failed("mount on "+j.MountPoint, err), undo())
	}
	return undo, nil
}

// point is a directory or file to mount on.
type point struct {
	manager *Manager
	fd      *ownedfd.FD // O_PATH
	parts   []string
	made    int // so many of the last parts were missing
	ino     uint64
	dev     uint64
	isDir   bool
}

// maxTries bounds how often the making of a directory starts anew because
// another storage has removed one on the way that it did not need any more.
const maxTries = 100

// makePoint returns the directory or file at a path below the root, and makes
// what is missing of it. The caller closes it.
func (m *Manager) makePoint(name string, directory bool) (*point, error) {
	root, err := unix.Open(m.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.root, Err: err}
	}
	defer unix.Close(root)
	p := &point{manager: m, isDir: directory}
	p.parts = strings.Split(strings.TrimPrefix(path.Clean(name), m.root+"/"), "/")
	fd := -1
	for range maxTries {
		p.made = missing(root, p.parts)
		if directory {
			fd, err = inroot.MkdirAll(root, path.Join(p.parts...), 0o755)
		} else {
			fd, err = inroot.Create(root, path.Join(p.parts...), 0o644)
		}
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	p.fd = ownedfd.New(fd)
	if err := unix.Fstat(fd, &stat); err != nil {
		p.close()
		return nil, os.NewSyscallError("fstat", err)
	}
	p.ino, p.dev = stat.Ino, stat.Dev
	return p, nil
}

// missing returns how many of the last parts of a path do not exist.
func missing(root int, parts []string) int {
	for i := range parts {
		fd, err := inroot.Open(root, path.Join(parts[:i+1]...), unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			return len(parts) - i
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	return 0
}

func (p *point) close() { _ = p.fd.Close() }

// remove removes what makePoint made, as far as it is empty: other storages and
// containers may have put something there.
func (p *point) remove() error {
	if p.made == 0 {
		return nil
	}
	root, err := unix.Open(p.manager.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.manager.root, Err: err}
	}
	defer unix.Close(root)
	for i := len(p.parts) - 1; i >= len(p.parts)-p.made; i-- {
		last := i == len(p.parts)-1
		err := p.removePart(root, path.Join(p.parts[:i]...), p.parts[i], last)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTDIR):
			return nil
		default:
			return failed("remove mount point "+path.Join(p.parts...), err)
		}
	}
	return nil
}

func (p *point) removePart(root int, dir, name string, last bool) error {
	parent, err := inroot.Open(root, "/"+dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if !last || p.isDir {
		return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	}
	var stat unix.Stat_t
	if err := unix.Fstatat(parent, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if stat.Ino != p.ino || stat.Dev != p.dev || stat.Size != 0 {
		return unix.EBUSY // somebody has put something there
	}
	return unix.Unlinkat(parent, name, 0)
}

// procPath names what a descriptor refers to, for system calls that want a path.
//
//go:noinline
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
