package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxLayers bounds how many mounts on one target are taken away.
const maxLayers = 1024

// Mount is what the sandbox mounts on a target: one mount, or several over each
// other.
type Mount struct {
	Target string `json:"target"`
	// Over is the mount that the target lay in before (statx(2), stx_mnt_id).
	// Whatever covers it is the sandbox's.
	Over uint64 `json:"over"`
	// Namespace is where it is mounted.
	Namespace Namespace `json:"namespace"`
}

// NewMount describes what is going to be mounted on target in this process's
// mount namespace. The target need not exist yet.
func NewMount(target string) (Mount, error) {
	ns, err := ownNamespace()
	if err != nil {
		return Mount{}, fmt.Errorf("prepare to mount on %s: %w", target, err)
	}
	for path := target; ; path = filepath.Dir(path) {
		over, err := mountID(path)
		if errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
			continue
		}
		if err != nil {
			return Mount{}, fmt.Errorf("prepare to mount on %s: %w", target, err)
		}
		return Mount{Target: target, Over: over, Namespace: ns}, nil
	}
}

func (Mount) kind() string { return "mount" }

func (m Mount) String() string { return "mount on " + m.Target }

func (m Mount) release(ctx context.Context) error {
	return m.Namespace.do(ctx, func() error { return uncover(m.Target, m.Over) })
}

// uncover unmounts what lies on target, down to the mount over.
func uncover(target string, over uint64) error {
	for range maxLayers {
		now, err := mountID(target)
		if errors.Is(err, fs.ErrNotExist) || now == over && err == nil {
			return nil
		}
		if err != nil {
			return err
		}
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) { // somebody has files of it open
			err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil // no mount point: what it lies in went, or was replaced
		case err != nil:
			return &os.PathError{Op: "unmount", Path: target, Err: err}
		}
	}
	return fmt.Errorf("%s is still covered after %d unmounts", target, maxLayers)
}

// mountID returns the mount that a path lies in.
func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID == 0 {
		err = unix.ENOSYS // before Linux 5.8
	}
	if err != nil {
		return 0, &os.PathError{Op: "find the mount of", Path: path, Err: err}
	}
	return st.Mnt_id, nil
}

// Netns is a network namespace that a file keeps (mount(2) of /proc/PID/ns/net),
// made for the sandbox. One that the container engine made is not ours and is not
// in the journal.
type Netns struct {
	Mount
}

// NewNetns describes the namespace that is going to be kept by the file at path.
func NewNetns(path string) (Netns, error) {
	m, err := NewMount(path)
	return Netns{m}, err
}

func (Netns) kind() string { return "netns" }

func (n Netns) String() string { return "network namespace " + n.Target }

// release unmounts the namespace and removes the file.
func (n Netns) release(ctx context.Context) error {
	return n.Namespace.do(ctx, func() error {
		if err := uncover(n.Target, n.Over); err != nil {
			return err
		}
		if err := os.Remove(n.Target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
