package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeTree removes a directory with what is in it, the file called last at the
// end. It crosses no mount point: what is mounted below the directory stays,
// whatever else has been removed, and is an error. A directory that is not there
// is none.
func removeTree(dir, last string) error {
	parent, err := os.OpenFile(filepath.Dir(dir), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return removeDirAt(parent, filepath.Dir(dir), filepath.Base(dir), last)
}

// empty removes what is in a directory but the file called last.
func empty(dir *os.File, path, last string) error {
	var errs []error
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if name == last && last != "" {
				continue
			}
			if err := removeAt(dir, path, name); err != nil {
				errs = append(errs, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
}

// removeAt removes one name of a directory.
func removeAt(dir *os.File, path, name string) error {
	path = filepath.Join(path, name)
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return stillMounted(path)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return removeDirAt(dir, filepath.Dir(path), name, "")
}

// removeDirAt removes a directory with what is in it, the file called last at the
// end.
func removeDirAt(dir *os.File, path, name, last string) error {
	path = filepath.Join(path, name)
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EXDEV):
		return stillMounted(path)
	case err != nil:
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	below := os.NewFile(uintptr(fd), path)
	err = empty(below, path, last)
	if err == nil && last != "" {
		err = removeAt(below, path, last)
	}
	if err := errors.Join(err, below.Close()); err != nil {
		return err
	}
	err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

func stillMounted(path string) error {
	return fmt.Errorf("%s: %w", path, ErrMounted)
}

// ErrMounted says that something is mounted where files were to be removed.
var ErrMounted = errors.New("something is still mounted there")
