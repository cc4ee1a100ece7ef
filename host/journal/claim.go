package journal

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
)

// MaxID is the length of a sandbox's id, in bytes: it keeps every socket in the
// folder within the 107 bytes of a unix socket's address (unix(7)). containerd's
// own limit is the same.
const MaxID = 76

// ErrHeld says that the sandbox's shim lives, or that somebody is cleaning up
// after it.
var ErrHeld = errors.New("another process holds it")

// CheckID refuses an id that cannot be the name of a folder.
func CheckID(id string) error {
	if id == "" || len(id) > MaxID || strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
		return fmt.Errorf("id %q is not a name of 1 to %d characters without slashes", id, MaxID)
	}
	return nil
}

// Claim makes the sandbox's folder below root, which is made when it is missing.
// A folder that a run of the same bundle left is an error that wraps fs.ErrExist:
// TakeOver it. One of another bundle makes way by name. The header's version is
// set.
func Claim(root string, h Header) (*Journal, error) {
	if err := CheckID(h.ID); err != nil {
		return nil, fmt.Errorf("claim a sandbox: %w", err)
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("claim sandbox %s: %w", h.ID, err)
	}
	sweep(root, h.ID)
	h.Version = version
	j, err := prepare(root, h)
	if err != nil {
		return nil, fmt.Errorf("claim sandbox %s: %w", h.ID, err)
	}
	for _, dir := range candidates(root, h.ID, h.Bundle) {
		err = unix.Renameat2(unix.AT_FDCWD, j.dir, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
		if err == nil {
			j.dir = dir
			return j, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
		if other, readErr := read(dir); readErr != nil || other.header.Bundle == h.Bundle {
			break
		}
	}
	return nil, errors.Join(fmt.Errorf("claim sandbox %s: %w", h.ID, err), j.Remove())
}

// prepare makes a folder with all that belongs in it, under a name that nobody
// looks for.
func prepare(root string, h Header) (_ *Journal, err error) {
	self, err := process.Identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, fmt.Sprintf("%s%d.%d.", prefix(h.ID), self.PID, self.StartTime))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeTree(dir, ""))
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	file, size, err := create(dir, h, nil)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Journal{dir: dir, lock: lock, file: file, contents: contents{header: h, size: size}}, nil
}

// prefix is how the names of folders in the making begin. What follows is the
// process that makes it.
func prefix(id string) string { return "." + id + "." }

// sweep removes folders of the id whose makers were killed in between.
func sweep(root, id string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix(id))
		part := strings.Split(rest, ".")
		if !ok || len(part) != 3 {
			continue
		}
		pid, err := strconv.Atoi(part[0])
		start, err2 := strconv.ParseUint(part[1], 10, 64)
		if err == nil && err2 == nil && !(process.ID{PID: pid, StartTime: start}).Alive() {
			_ = removeTree(filepath.Join(root, e.Name()), "")
		}
	}
}

// candidates are the folders that a sandbox may have, by preference.
func candidates(root, id, bundle string) []string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(bundle))
	return []string{filepath.Join(root, id), filepath.Join(root, fmt.Sprintf("%s-%08x", id, h.Sum32()))}
}

// Find returns the folder of the sandbox id of bundle, of any bundle when that is
// empty, or an error that wraps fs.ErrNotExist. A folder whose journal cannot be
// read counts as the one that is sought; its header is an id only.
func Find(root, id, bundle string) (string, Header, error) {
	if err := CheckID(id); err != nil {
		return "", Header{}, fmt.Errorf("find a sandbox: %w", err)
	}
	for _, dir := range candidates(root, id, bundle) {
		c, err := read(dir)
		switch {
		case err == nil && (bundle == "" || c.header.Bundle == bundle):
			return dir, c.header, nil
		case err != nil && dirExists(dir):
			return dir, Header{ID: id}, nil
		}
	}
	return "", Header{}, fmt.Errorf("find sandbox %s below %s: %w", id, root, fs.ErrNotExist)
}

func dirExists(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && info.IsDir()
}

// TakeOver opens the folder of a sandbox whose shim is dead. While another process
// holds it the error wraps ErrHeld, after ctx has ended; one that is not there
// wraps fs.ErrNotExist. A folder without a journal, of which its removal was
// interrupted, holds nothing. One whose journal this program cannot read is left
// alone.
func TakeOver(ctx context.Context, root, id, bundle string) (*Journal, error) {
	for {
		dir, h, err := Find(root, id, bundle)
		if err != nil {
			return nil, err
		}
		j, err := takeOver(dir, h)
		if !errors.Is(err, ErrHeld) {
			if err != nil {
				err = fmt.Errorf("take over sandbox %s: %w", id, err)
			}
			return j, err
		}
		select { // flock(2) knows no deadline
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("take over sandbox %s: %w", id, err)
		}
	}
}

func takeOver(dir string, h Header) (_ *Journal, err error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	// It may have been removed, and another put in its place, before the lock.
	if same, err := isFile(lock, dir); err != nil || !same {
		return nil, errors.Join(fmt.Errorf("%s has changed: %w", dir, ErrHeld), err)
	}
	c, err := read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		c.header = h
		file, size, err := create(dir, h, nil)
		if err != nil {
			return nil, err
		}
		c.size = size
		return &Journal{dir: dir, lock: lock, file: file, contents: c}, nil
	}
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, fileName), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(c.size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Journal{dir: dir, lock: lock, file: file, contents: c}, nil
}

// lockDir opens a folder and takes its lock, or fails with ErrHeld. The lock ends
// with the descriptor, and so with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has gone: %w", dir, ErrHeld)
	}
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, ErrHeld), f.Close())
	case err != nil:
		return nil, errors.Join(&os.PathError{Op: "lock", Path: dir, Err: err}, f.Close())
	}
	return f, nil
}

// isFile tells whether the path names the open file.
func isFile(f *os.File, path string) (bool, error) {
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	theirs, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, theirs), err
}
