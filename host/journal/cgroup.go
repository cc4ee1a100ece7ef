package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup v2 of the sandbox's, with those below it
// (Documentation/admin-guide/cgroup-v2.rst).
type Cgroup struct {
	// Path is its directory, as /sys/fs/cgroup/kata/ID.
	Path string `json:"path"`
}

func (Cgroup) kind() string { return "cgroup" }

func (c Cgroup) String() string { return "cgroup " + c.Path }

// release kills what is left in the cgroup, waits until it is empty, and removes
// it.
func (c Cgroup) release(ctx context.Context) error {
	switch _, err := os.Lstat(c.Path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	// Only a cgroup has this file: nothing else is walked and removed.
	if err := killAll(filepath.Join(c.Path, "cgroup.kill")); err != nil {
		return fmt.Errorf("kill what is in it: %w", err)
	}
	if err := awaitEmpty(ctx, filepath.Join(c.Path, "cgroup.events")); err != nil {
		return err
	}
	return removeCgroups(c.Path)
}

// killAll has the kernel kill all processes of a cgroup and of those below.
func killAll(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close())
}

// awaitEmpty waits until no process is in a cgroup or below. The kernel tells of a
// change of the file by POLLPRI.
func awaitEmpty(ctx context.Context, events string) error {
	f, err := os.Open(events)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 256)
	for {
		n, err := f.ReadAt(b, 0)
		if n == 0 {
			return err
		}
		if strings.Contains(string(b[:n]), "populated 0") {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("processes are in it: %w", context.Cause(ctx))
		}
		const look = 50 * time.Millisecond // at ctx, which poll(2) does not know
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, int(look.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// removeCgroups removes a cgroup and those below, which are its directories. Its
// files go with it.
func removeCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroups(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}
