package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
)

// Permissions that a group gets, as Kubernetes' fsGroup wants them: what is
// there and what is made later can be read and written by the group.
const (
	groupFile = 0o660
	groupDir  = 0o110 | groupFile | unix.S_ISGID
)

// maxDepth bounds the depth of directories that are given to a group: each
// takes a descriptor while those below it are worked on.
const maxDepth = 10_000

// own gives what is mounted on fd, and everything in it, to the group that j
// asks for. Symbolic links are not followed, other file systems not entered.
func (j *job) own(ctx context.Context, fd int) error {
	group := j.FsGroup
	if group == nil {
		return nil
	}
	if owned, err := isOwned(fd, group); owned || err != nil {
		return err
	}
	if err := chownTree(ctx, fd, int(group.GroupId), 0); err != nil {
		return failed("give "+j.MountPoint+" to group "+strconv.FormatUint(uint64(group.GroupId), 10), err)
	}
	return nil
}

// isOwned reports whether the policy is content with the top directory's group
// and mode.
func isOwned(fd int, group *agentpb.FSGroup) (bool, error) {
	if group.GroupChangePolicy != 1 { // OnRootMismatch
		return false, nil
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return stat.Gid == group.GroupId && stat.Mode&groupDir == groupDir, nil
}

// chownTree gives a file or directory, open as O_PATH, to a group with all that
// is below it.
func chownTree(ctx context.Context, fd, group, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	directory, err := chown(fd, group)
	if err != nil || !directory {
		return err
	}
	if depth == maxDepth {
		return errors.New("directories are deeper than 10000")
	}
	dir, err := openDir(fd)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := chownEntry(ctx, int(dir.Fd()), name, group, depth+1); err != nil {
				return failed(name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// openDir opens a directory that is open as O_PATH for reading.
func openDir(fd int) (*os.File, error) {
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(dir), "directory"), nil
}

// chownEntry is chownTree for an entry of a directory, unless it has just gone
// or something is mounted on it.
func chownEntry(ctx context.Context, dir int, name string, group, depth int) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	}
	fd, err := unix.Openat2(dir, name, &how)
	switch err {
	case nil:
	case unix.ENOENT, unix.EXDEV:
		return nil
	default:
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	return chownTree(ctx, fd, group, depth)
}

// chown gives one file to a group and reports whether it is a directory.
func chown(fd, group int) (directory bool, err error) {
	if err := unix.Fchownat(fd, "", -1, group, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, os.NewSyscallError("fchownat", err)
	}
	// After it, since it may take set-id bits away.
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	mode := stat.Mode & 0o7777
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return false, nil // has no mode of its own
	case unix.S_IFDIR:
		directory, mode = true, mode|groupDir
	default:
		mode |= groupFile
	}
	return directory, os.NewSyscallError("chmod", unix.Chmod(procPath(fd), mode))
}

// takeGroup takes the option fsgid=, or fsGroup=, out of the options of j: the
// group that the directory itself is given to.
func (j *job) takeGroup() (group int, options []string, err error) {
	group = -1
	for _, option := range j.Options {
		key, value, _ := strings.Cut(option, "=")
		if key != "fsgid" && key != "fsGroup" {
			options = append(options, option)
			continue
		}
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 1<<32-1 {
			return 0, nil, invalid("option", option, "is not the number of a group")
		}
		group = int(n)
	}
	return group, options, nil
}

// giveTo gives one directory to a group and makes what is made in it the group's
// too. A negative group changes nothing.
func giveTo(fd, group int) error {
	if group < 0 {
		return nil
	}
	var stat unix.Stat_t
	if err := unix.Fchownat(fd, "", -1, group, unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if err := unix.Fstat(fd, &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return os.NewSyscallError("chmod", unix.Chmod(procPath(fd), stat.Mode&0o7777|unix.S_ISGID))
}
