package cgroup

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// walk calls f for the group at path and every group below it. Groups that
// vanish meanwhile are left out.
func walk(path string, f func(dir string) error) error {
	pending := []string{path}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		err := f(dir)
		var entries []os.DirEntry
		if err == nil {
			entries, err = readDir(dir)
		}
		if err != nil && (dir == path || !gone(err)) {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				pending = append(pending, dir+"/"+e.Name())
			}
		}
	}
	return nil
}

// readDir is os.ReadDir in any order.
func readDir(dir string) ([]os.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	return entries, errors.Join(err, d.Close())
}

// gone reports whether err says that a group was removed while it was read.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// removeBelow removes the groups below the directory dir, deepest first. It
// holds one descriptor however deep a container nested its groups.
func removeBelow(dir int) error {
	at, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	var names []string // from dir to at
	for {
		name, err := firstChild(at)
		if err != nil {
			return err
		}
		if name == "" && len(names) == 0 {
			return nil
		}
		step := name
		if name == "" {
			step = ".."
		}
		next, err := unix.Openat(at, step, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Close(at)
		at = next
		if name != "" {
			names = append(names, name)
			continue
		}
		name, names = names[len(names)-1], names[:len(names)-1]
		if err := unix.Unlinkat(at, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "rmdir", Path: strings.Join(append(names, name), "/"), Err: err}
		}
	}
}

// firstChild returns the name of a group below the open directory dir, or "".
func firstChild(dir int) (string, error) {
	names, err := readNames(dir)
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return name, nil
		}
	}
	return "", err
}

// list returns the names in the group dir, an O_PATH descriptor.
func list(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readNames(fd)
}

// readNames returns the names in the open directory dir.
func readNames(dir int) ([]string, error) {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// write writes value to a file of the group dir, in one write(2).
func write(dir int, file, value string) error {
	fd, err := unix.Openat(dir, file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return &writeError{file: file, value: value, err: err}
	}
	return nil
}

// writeError says which value the kernel refused.
type writeError struct {
	file, value string
	err         error
}

func (e *writeError) Error() string {
	return "write " + strings.TrimSpace(e.value) + " to " + e.file + ": " + e.err.Error()
}

func (e *writeError) Unwrap() error { return e.err }

// read returns the content of a file of the group dir.
func read(dir int, file string) (string, error) {
	fd, err := unix.Openat(dir, file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", &os.PathError{Op: "read", Path: file, Err: err}
		}
		if n == 0 {
			return string(buf), nil
		}
		buf = buf[:len(buf)+n]
		buf = slices.Grow(buf, 1)
	}
}
