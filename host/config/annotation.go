package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadNamedByPod reads the file that a pod's annotation names. What a pod's author
// can write must not make the shim, which is root, read or believe any file of the
// host: the operator lists folders, and everything from / to the file belongs to
// root and can be written by nobody else, so that no user can put a file there or
// exchange one. Errors say nothing of what is in the file.
func loadNamedByPod(path string, folders []string, host Host) (*Config, error) {
	if err := allowed(path, folders); err != nil {
		return nil, err
	}
	text, err := readTrusted(path)
	if err != nil {
		return nil, err
	}
	c, err := Decode(path, text, host)
	if err != nil {
		return nil, withoutContent(path, err)
	}
	c.byPod = true
	for i := range c.Warnings {
		c.Warnings[i].Value = ""
	}
	return c, nil
}

// allowed looks at names only: whether a file exists outside the folders is not
// the pod's to learn.
func allowed(path string, folders []string) error {
	if len(path) >= unix.PathMax {
		return fmt.Errorf("a path of %d bytes is refused", len(path))
	}
	if err := printable(path); err != nil {
		return fmt.Errorf("%q %w", path, err)
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%q is not an absolute path without \".\", \"..\" and double slashes", path)
	}
	for _, folder := range folders {
		if strings.HasPrefix(path, folder+"/") {
			return nil
		}
	}
	if len(folders) == 0 {
		return fmt.Errorf("%q is refused: the operator lists no folder in annotation_config_folders of [runtime]", path)
	}
	return fmt.Errorf("%q is refused: it is in none of the folders that the operator lists in annotation_config_folders of [runtime]", path)
}

// readTrusted returns the text of a regular file that belongs to root, as all
// folders above it do, none of which anybody else can write.
func readTrusted(path string) (string, error) {
	fd, err := openTrusted(path, unix.S_IFREG)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	// What was checked is what is read: /proc/self/fd leads to the same inode.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, underlying(err))
	}
	defer f.Close()
	return readAll(f, path)
}

// openTrusted walks from / to the path with O_PATH, which opens without any effect,
// and checks what it stands on by descriptor, so that nothing can be exchanged
// between check and use. Symbolic links are not followed: each would have to be
// checked the same way. The caller closes the descriptor.
func openTrusted(path string, kind uint32) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", flags|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("open /: %w", err)
	}
	if err := trusted(fd, unix.S_IFDIR); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("/ %w", err)
	}
	names := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, name := range names {
		at := "/" + strings.Join(names[:i+1], "/")
		next, err := unix.Openat(fd, name, flags, 0)
		_ = unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", at, err)
		}
		fd = next
		want := uint32(unix.S_IFDIR)
		if i == len(names)-1 {
			want = kind
		}
		if err := trusted(fd, want); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("%s %w", at, err)
		}
	}
	return fd, nil
}

// trusted says what is wrong with an open file; the message follows its name. An
// access control list that lets others write shows in the group's bits (acl(5)).
func trusted(fd int, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("cannot be looked at: %w", err)
	}
	switch format := st.Mode & unix.S_IFMT; {
	case format == unix.S_IFLNK:
		return errors.New("is a symbolic link, which is not followed")
	case format != kind && kind == unix.S_IFDIR:
		return errors.New("is not a folder")
	case format != kind:
		return errors.New("is not a regular file")
	case st.Uid != 0:
		return errors.New("does not belong to root")
	case st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0:
		return errors.New("can be written by others than root")
	}
	return nil
}

// withoutContent keeps nothing of an error about a file's text but the line.
func withoutContent(path string, err error) error {
	var first *KeyError
	more := ""
	if errors.As(err, &first) && first.Line > 0 {
		more = fmt.Sprintf(":%d", first.Line)
	}
	return fmt.Errorf("%s%s: not a configuration; kata-runtime --config FILE check tells its operator why", path, more)
}

// FolderProblems says which folders of Policy cannot hold a file that a pod may
// name: those that are not there, do not belong to root, or can be written by
// others.
func (c *Config) FolderProblems() []*KeyError {
	var out []*KeyError
	for _, folder := range c.Policy.ConfigFolders {
		fd, err := openTrusted(folder, unix.S_IFDIR)
		if err == nil {
			_ = unix.Close(fd)
			continue
		}
		out = append(out, &KeyError{File: c.Path, Key: "runtime.annotation_config_folders", Value: format(folder), Reason: err.Error(), Err: err})
	}
	return out
}

// folder accepts what annotation_config_folders may list.
func folder(s string) error {
	switch {
	case !filepath.IsAbs(s) || filepath.Clean(s) != s:
		return errors.New(`must be an absolute path without ".", "..", double slashes and a slash at its end`)
	case s == "/":
		return errors.New("must not be the root folder, which holds every file")
	case strings.ContainsRune(s, 0):
		return errors.New("must not contain a NUL byte")
	}
	return nil
}
