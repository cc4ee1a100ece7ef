// Package mount makes mounts in the guest: of file systems, of other parts of
// the tree, and for containers as for the agent itself.
//
// A mount is made first and attached afterwards. [FS] and [Bind] return a
// [Tree] that is attached nowhere; its attributes are set while nothing can see
// it, and [Tree.Attach] puts it on a descriptor, not on a path, so that whoever
// can write to the directory cannot move the target away in between. [Mount]
// does all of it for a caller that trusts its paths.
//
// It needs the mount interface of Linux 5.12 (fsopen, open_tree, move_mount,
// mount_setattr), as every guest kernel has. It keeps no table of what it
// mounted and never unmounts.
package mount

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/lib/fmt"
	"kata/lib/ownedfd"
)

// Hold returns the tree at a descriptor, which then belongs to the Tree.
func Hold(fd int) *Tree { return &Tree{ownedfd.New(fd)} }

// Tree is a mount, or several below one another, held by a descriptor. Until
// it is attached, Close also destroys it.
type Tree struct {
	fd *ownedfd.FD
}

// FD is an O_PATH descriptor of the tree's root, owned by the Tree: a Tree has one
// user at a time, who does not close it while the number is in use. After Close
// it is -1, never a number that may be another file's by now.
func (t *Tree) FD() int { return t.fd.Number() }

// Close releases the descriptor; an attached mount stays. A further call returns
// os.ErrClosed.
func (t *Tree) Close() error { return t.fd.Close() }

// Bind returns a copy of the mount at the descriptor source, which may also be
// a directory or file within a mount; recursive includes the mounts below it.
// It works for descriptors of the caller's own mount namespace only.
func Bind(source int, recursive bool) (*Tree, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(source, "", flags)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return Hold(fd), nil
}

// FS returns a mount of a file system of the given type with source and
// parameters, and with attr's bits set. A source that is a path belongs to one
// file system; "ro" then is for that file system too, else for the mount only,
// because the file system may have other mounts.
func FS(fstype, source string, params []Param, attr Attr) (*Tree, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err == unix.ENODEV {
		return nil, invalid(fmt.Errorf("unknown file system type %q", fstype))
	}
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := configure(fs, source, params, attr.Readonly()); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr.Set))
	if err != nil {
		return nil, describe(fs, os.NewSyscallError("fsmount", err))
	}
	return Hold(fd), nil
}

// InvalidError is a mount that makes no sense: the kernel does not take its
// source, an option or its type, or it must not be where it is to be.
type InvalidError = fault.Error

func invalid(err error) error { return &InvalidError{Kind: fault.Invalid, Cause: err} }

// refused is what the kernel says about a parameter.
func refused(fs int, what string, err error) error {
	said := describe(fs, fmt.Errorf("%s: %w", what, err))
	switch err {
	case unix.EINVAL, unix.ENAMETOOLONG, unix.E2BIG, unix.ERANGE:
		return invalid(said)
	}
	return said
}

// configure gives a file system context its parameters and creates the file
// system.
func configure(fs int, source string, params []Param, readonly bool) error {
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return refused(fs, "source "+strconv.Quote(source), err)
		}
	}
	if readonly && strings.HasPrefix(source, "/") {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return describe(fs, fmt.Errorf("option ro: %w", err))
		}
	}
	for _, p := range params {
		var err error
		if p.Flag {
			err = unix.FsconfigSetFlag(fs, p.Key)
		} else {
			err = unix.FsconfigSetString(fs, p.Key, p.Value)
		}
		if err != nil {
			return refused(fs, "option "+strconv.Quote(p.String()), err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return describe(fs, err)
	}
	return nil
}

// describe adds what the kernel logged about a file system context to err.
// Each read gives one message, with its level and a space before it.
func describe(fs int, err error) error {
	buf := make([]byte, 1024)
	n, readErr := unix.Read(fs, buf)
	if readErr != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[2:n])))
}

// SetAttr changes the attributes of the tree's top mount, or of all of its
// mounts.
func (t *Tree) SetAttr(a Attr, recursive bool) error {
	if a.Empty() {
		return nil
	}
	return t.setattr(unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear}, recursive)
}

// SetPropagation sets the propagation type of MS_PRIVATE's kind; with MS_REC
// for all mounts of the tree.
func (t *Tree) SetPropagation(flags uint64) error {
	return t.setattr(unix.MountAttr{Propagation: flags &^ unix.MS_REC}, flags&unix.MS_REC != 0)
}

func (t *Tree) setattr(attr unix.MountAttr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return t.fd.Use(func(fd int) error {
		return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags, &attr))
	})
}

// Attach mounts the tree on the descriptor target, on top of what is mounted
// there. The file or directory must be of the tree's kind.
func (t *Tree) Attach(target int) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return t.fd.Use(func(fd int) error {
		return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", target, "", flags))
	})
}

// SetIDMap makes the mount, or all of the tree, show the owners of files as the
// user namespace at the descriptor users maps them. No mount of the tree may be
// attached or mapped yet.
func (t *Tree) SetIDMap(users int, recursive bool) error {
	return t.setattr(unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users)}, recursive)
}

// Configure applies the attributes that options give. The recursive ones come
// last and win, as in runc.
func (t *Tree) Configure(o *Options) error {
	if err := t.SetAttr(o.Attr, false); err != nil {
		return err
	}
	return t.SetAttr(o.AttrRec, true)
}

// Propagate applies the propagation of the options. It comes after Attach: a
// tree attached below a shared mount becomes shared.
func (t *Tree) Propagate(o *Options) error {
	for _, flags := range o.Propagation {
		if err := t.SetPropagation(flags); err != nil {
			return err
		}
	}
	return nil
}

// Mount mounts source on the existing target, following symbolic links in
// both: a bind mount if the options or the type say so, else a file system of
// the type fstype. The error names the target.
func Mount(fstype, source, target string, options []string) error {
	if err := mountPath(fstype, source, target, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

func mountPath(fstype, source, target string, options []string) error {
	o, err := Parse(options)
	if err != nil {
		return err
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := build(fstype, source, &o)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := tree.Configure(&o); err != nil {
		return err
	}
	if err := tree.Attach(fd); err != nil {
		return err
	}
	return tree.Propagate(&o)
}

func build(fstype, source string, o *Options) (*Tree, error) {
	if !o.Bind && fstype != "bind" {
		return FS(fstype, source, o.Data, o.Attr)
	}
	fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return Bind(fd, o.Recursive)
}
