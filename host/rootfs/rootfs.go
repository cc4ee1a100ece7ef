// Package rootfs mounts a container's root file system from the mounts that
// containerd hands to a shim (type, source, options), and takes it down again.
//
// It knows mount(2) options by name and overlayfs with more layers than one
// page of options can hold. It does not know where the root file system goes
// next: host/share exports it to the guest.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/thread"
)

// Mount is one step of a root file system: the arguments of mount(2) in the
// form that containerd's snapshotters give them.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// MountAll mounts the steps in order on target, an existing directory. When a
// step fails the earlier ones are unmounted again and the error names the step.
func MountAll(mounts []Mount, target string) error {
	for i, m := range mounts {
		if err := m.mount(target); err != nil {
			for range i {
				err = errors.Join(err, Unmount(target))
			}
			return fmt.Errorf("mount root file system (%s from %s): %w", m.Type, m.Source, err)
		}
	}
	return nil
}

// Unmount removes the topmost mount on target. A target that is not a mount
// point, or is gone, is no error.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: target, Err: err}
}

func (m Mount) mount(target string) error {
	flags, data := splitOptions(m.Options)
	if slices.Contains(m.Options, "loop") {
		return errors.New("option loop is not supported for a root file system")
	}
	dir := ""
	if m.Type == "overlay" && optionsLength(data) >= unix.Getpagesize()-256 {
		dir, data = compactLayers(data)
	}
	joined := strings.Join(data, ",")
	if len(joined) >= unix.Getpagesize() {
		return fmt.Errorf("options take %d bytes, more than the %d that mount(2) takes", len(joined), unix.Getpagesize())
	}
	if flags&unix.MS_BIND == 0 {
		return mountIn(dir, m.Source, target, m.Type, flags, joined)
	}
	if err := mountIn("", m.Source, target, "", unix.MS_BIND|flags&unix.MS_REC, ""); err != nil {
		return err
	}
	if rest := flags &^ (unix.MS_BIND | unix.MS_REC); rest != 0 {
		if err := mountIn("", "", target, "", unix.MS_BIND|unix.MS_REMOUNT|rest, ""); err != nil {
			return errors.Join(err, Unmount(target))
		}
	}
	return nil
}

// mountIn calls mount(2) with dir as the working directory of the calling
// thread only, so that relative layer paths in data mean paths below dir.
func mountIn(dir, source, target, fstype string, flags uintptr, data string) error {
	if dir == "" {
		return mount(source, target, fstype, flags, data)
	}
	var err error
	thread.Spend(func() { // its working directory is its own from here on
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			err = fmt.Errorf("unshare working directory: %w", err)
			return
		}
		if err = unix.Chdir(dir); err != nil {
			err = &os.PathError{Op: "chdir", Path: dir, Err: err}
			return
		}
		err = mount(source, target, fstype, flags, data)
	})
	return err
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	for {
		err := unix.Mount(source, target, fstype, flags, data)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "mount", Path: target, Err: err}
		}
	}
}

// flagOptions are the mount(8) option names that are flags of mount(2); clear
// marks the names that take a flag away.
var flagOptions = map[string]struct {
	flag  uintptr
	clear bool
}{
	"async": {unix.MS_SYNCHRONOUS, true}, "atime": {unix.MS_NOATIME, true},
	"bind": {unix.MS_BIND, false}, "defaults": {0, false},
	"dev": {unix.MS_NODEV, true}, "diratime": {unix.MS_NODIRATIME, true},
	"dirsync": {unix.MS_DIRSYNC, false}, "exec": {unix.MS_NOEXEC, true},
	"mand": {unix.MS_MANDLOCK, false}, "noatime": {unix.MS_NOATIME, false},
	"nodev": {unix.MS_NODEV, false}, "nodiratime": {unix.MS_NODIRATIME, false},
	"noexec": {unix.MS_NOEXEC, false}, "nomand": {unix.MS_MANDLOCK, true},
	"norelatime": {unix.MS_RELATIME, true}, "nostrictatime": {unix.MS_STRICTATIME, true},
	"nosuid": {unix.MS_NOSUID, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
	"relatime": {unix.MS_RELATIME, false}, "ro": {unix.MS_RDONLY, false},
	"rw": {unix.MS_RDONLY, true}, "strictatime": {unix.MS_STRICTATIME, false},
	"suid": {unix.MS_NOSUID, true}, "sync": {unix.MS_SYNCHRONOUS, false},
}

// splitOptions sorts options into flags of mount(2) and data for the file system.
func splitOptions(options []string) (flags uintptr, data []string) {
	for _, o := range options {
		f, known := flagOptions[o]
		switch {
		case !known:
			data = append(data, o)
		case f.clear:
			flags &^= f.flag
		default:
			flags |= f.flag
		}
	}
	return flags, data
}

func optionsLength(data []string) int {
	n := len(data)
	for _, d := range data {
		n += len(d)
	}
	return n
}

// compactLayers rewrites the paths of overlayfs options relative to the
// longest folder that all lower layers share, and returns that folder. An
// image of a hundred layers has options longer than the page that mount(2)
// takes; relative ones fit.
func compactLayers(data []string) (dir string, out []string) {
	i := slices.IndexFunc(data, func(o string) bool { return strings.HasPrefix(o, "lowerdir=") })
	if i < 0 {
		return "", data
	}
	layers := strings.Split(strings.TrimPrefix(data[i], "lowerdir="), ":")
	dir = filepath.Dir(layers[0])
	for _, l := range layers[1:] {
		for dir != "/" && !strings.HasPrefix(l, dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	if dir == "/" || !filepath.IsAbs(dir) {
		return "", data
	}
	for j, l := range layers {
		layers[j] = strings.TrimPrefix(l, dir+"/")
	}
	out = slices.Clone(data)
	out[i] = "lowerdir=" + strings.Join(layers, ":")
	return dir, out
}
