package rootfs

import (
	"errors"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// maxDepth bounds the directories that copyUp descends into; each holds two
// descriptors.
const maxDepth = 128

// copyUp copies the directory at the descriptor from, with owners, modes and
// what is below it, into the empty directory at to. Links are copied as links.
func copyUp(from, to int) error {
	return copyDir(from, to, 0)
}

func copyDir(from, to, depth int) error {
	if depth > maxDepth {
		return errors.New("directories are nested too deeply")
	}
	source, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	target, err := unix.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(source, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		var names []string
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		for _, name := range names {
			if err := copyEntry(source, target, name, depth); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return copyOwner(source, target)
}

func copyEntry(source, target int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(source, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(target, name, 0o700); err != nil {
			return err
		}
		return withBoth(source, target, name, unix.O_PATH|unix.O_DIRECTORY, unix.O_PATH|unix.O_DIRECTORY, func(from, to int) error {
			return copyDir(from, to, depth+1)
		})
	case unix.S_IFREG:
		return withBoth(source, target, name, unix.O_RDONLY, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, func(from, to int) error {
			if err := copyBytes(from, to); err != nil {
				return err
			}
			return copyOwner(from, to)
		})
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(source, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), target, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(target, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return unix.Fchownat(target, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func withBoth(source, target int, name string, sourceFlags, targetFlags int, f func(from, to int) error) error {
	from, err := unix.Openat(source, name, sourceFlags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Openat(target, name, targetFlags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return f(from, to)
}

func copyBytes(from, to int) error {
	for {
		n, err := unix.Sendfile(to, from, nil, 1<<20)
		if err == unix.EINTR || err == nil && n > 0 {
			continue
		}
		return err
	}
}

// copyOwner gives to the owner and mode of from. The owner first: changing it
// clears set-user-ID.
func copyOwner(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(to, st.Mode&0o7777)
}
