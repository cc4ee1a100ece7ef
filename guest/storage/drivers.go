package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/inroot"
	"kata/guest/mount"
)

// mountVirtioFS mounts the shared folder whose tag is the source.
func mountVirtioFS(m *Manager, s *agentpb.Storage) (func() error, error) {
	if s.Source == "" {
		return nil, &InvalidError{"source", "", "is not the tag of a virtio-fs device"}
	}
	if s.Fstype != "" && s.Fstype != "virtiofs" {
		return nil, &InvalidError{"fstype", s.Fstype, "is not virtiofs"}
	}
	if err := noGroup(s); err != nil {
		return nil, err
	}
	return m.attachFS("virtiofs", s)
}

// mountEphemeral mounts a tmpfs, the size of which is among the options.
func mountEphemeral(m *Manager, s *agentpb.Storage) (func() error, error) {
	if s.Fstype != "" && s.Fstype != "tmpfs" {
		return nil, &InvalidError{"fstype", s.Fstype, "is not tmpfs"}
	}
	undo, err := m.attachFS("tmpfs", s)
	if err != nil {
		return nil, err
	}
	if err := m.own(s); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// makeLocal makes a directory; "mode=" among the options is its mode in octal.
// Undone, the directory stays: it may have contents that belong to somebody.
func makeLocal(m *Manager, s *agentpb.Storage) (func() error, error) {
	mode := uint32(0o755)
	for _, option := range s.Options {
		value, ok := strings.CutPrefix(option, "mode=")
		n, err := strconv.ParseUint(value, 8, 32)
		if !ok || err != nil || n > 0o7777 {
			return nil, &InvalidError{"option", option, "is not mode=OCTAL"}
		}
		mode = uint32(n)
	}
	err := m.at(s, func(point int) error {
		return unix.Chmod(procPath(point), mode)
	})
	if err != nil {
		return nil, fmt.Errorf("make directory %s: %w", s.MountPoint, err)
	}
	if err := m.own(s); err != nil {
		return nil, err
	}
	return func() error { return nil }, nil
}

// mountBind makes a file or directory of the guest available in another place.
func mountBind(m *Manager, s *agentpb.Storage) (func() error, error) {
	if !path.IsAbs(s.Source) || strings.IndexByte(s.Source, 0) >= 0 {
		return nil, &InvalidError{"source", s.Source, "is not an absolute path"}
	}
	if err := noGroup(s); err != nil {
		return nil, err
	}
	options, err := mount.Parse(s.Options)
	if err != nil {
		return nil, fmt.Errorf("storage options: %w", err)
	}
	source, err := unix.Open(s.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: s.Source, Err: err}
	}
	defer unix.Close(source)
	tree, err := mount.Bind(source, options.Recursive)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", s.Source, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: s.Source, Err: err}, tree.Close())
	}
	return m.attach(tree, &options, s, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
}

// attachFS mounts a file system of the kernel's on the mount point.
func (m *Manager) attachFS(fstype string, s *agentpb.Storage) (func() error, error) {
	options, err := mount.Parse(s.Options)
	if err != nil {
		return nil, fmt.Errorf("storage options: %w", err)
	}
	source := s.Source
	if source == "" {
		source = fstype
	}
	tree, err := mount.FS(fstype, source, options.Data, options.Attr)
	if err != nil {
		return nil, fmt.Errorf("mount %s %q: %w", fstype, source, err)
	}
	return m.attach(tree, &options, s, true)
}

// attach puts tree, of which it takes ownership, on the mount point of s. The
// tree's descriptor is kept to unmount it by: the path may lead elsewhere by
// then.
func (m *Manager) attach(tree *mount.Tree, options *mount.Options, s *agentpb.Storage, directory bool) (func() error, error) {
	err := tree.Configure(options)
	if err == nil {
		err = m.atKind(s, directory, tree.Attach)
	}
	if err == nil {
		err = tree.Propagate(options)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount on %s: %w", s.MountPoint, err), tree.Close())
	}
	return func() error {
		err := unix.Unmount(procPath(tree.FD()), unix.MNT_DETACH)
		if err != nil {
			err = fmt.Errorf("unmount %s: %w", s.MountPoint, err)
		}
		return errors.Join(err, tree.Close())
	}, nil
}

// at calls do with a descriptor of the mount point, a directory that is made if
// it is missing.
func (m *Manager) at(s *agentpb.Storage, do func(point int) error) error {
	return m.atKind(s, true, do)
}

func (m *Manager) atKind(s *agentpb.Storage, directory bool, do func(point int) error) error {
	root, err := unix.Open(m.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: m.root, Err: err}
	}
	defer unix.Close(root)
	below := strings.TrimPrefix(path.Clean(s.MountPoint), m.root)
	create := inroot.MkdirAll
	mode := uint32(0o755)
	if !directory {
		create, mode = inroot.Create, 0o644
	}
	point, err := create(root, below, mode)
	if err != nil {
		return err
	}
	defer unix.Close(point)
	return do(point)
}

// own gives the mounted directory to the group that s asks for, as Kubernetes'
// fsGroup wants it: writable by the group and inherited.
func (m *Manager) own(s *agentpb.Storage) error {
	if s.FsGroup == nil {
		return nil
	}
	err := m.at(s, func(point int) error {
		var stat unix.Stat_t
		if err := unix.Fstat(point, &stat); err != nil {
			return err
		}
		name := procPath(point)
		if err := unix.Chown(name, -1, int(s.FsGroup.GroupId)); err != nil {
			return err
		}
		return unix.Chmod(name, stat.Mode&0o7777|unix.S_ISGID|0o070)
	})
	if err != nil {
		return fmt.Errorf("give %s to group %d: %w", s.MountPoint, s.FsGroup.GroupId, err)
	}
	return nil
}

// noGroup refuses a group for a storage whose files are not the guest's to
// change.
func noGroup(s *agentpb.Storage) error {
	if s.FsGroup == nil {
		return nil
	}
	return &InvalidError{"fs_group", strconv.Itoa(int(s.FsGroup.GroupId)), "is not possible with driver " + s.Driver}
}

// procPath names what a descriptor refers to, for system calls that want a path.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
