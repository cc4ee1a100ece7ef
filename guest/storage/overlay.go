package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/mount"
)

const (
	// optionReadWrite is upstream's: the overlay gets directories to write to.
	optionReadWrite = "io.katacontainers.fs-opt.overlay-rw"
	// optionKata begins the names of upstream's options that are not the kernel's.
	optionKata = "io.katacontainers."
	// maxLayers is the kernel's own limit (OVL_MAX_STACK).
	maxLayers = 500
)

// mountOverlay mounts an overlay of directories.
func mountOverlay(_ context.Context, m *Manager, j *job) (release, error) {
	if j.Fstype != "" && j.Fstype != "overlay" && j.Fstype != "overlayfs" {
		return nil, &InvalidError{"fstype", j.Fstype, "is not overlay"}
	}
	var undo release = func() error { return nil }
	options := slices.Clone(j.Options)
	if i := slices.Index(options, optionReadWrite); i >= 0 {
		dirs, remove, err := m.writable(j.owner)
		if err != nil {
			return nil, err
		}
		undo = remove
		options = append(slices.Delete(options, i, i+1), dirs...)
	}
	done, err := m.attachOverlay(j, options)
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return func() error { return errors.Join(done(), undo()) }, nil
}

func (m *Manager) attachOverlay(j *job, options []string) (release, error) {
	for _, option := range options {
		if strings.HasPrefix(option, optionKata) {
			return nil, &InvalidError{"option", option, "is unknown to driver overlayfs"}
		}
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	if !o.HasData("lowerdir") {
		return nil, &InvalidError{"options", strings.Join(options, ","), "have no lowerdir="}
	}
	if o.HasData("upperdir") != o.HasData("workdir") {
		return nil, &InvalidError{"options", strings.Join(options, ","), "have one of upperdir= and workdir= without the other"}
	}
	tree, err := m.overlay(&o)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return m.attach(tree, &o, j, true)
}

// writable makes the directories of a container's writable overlay and returns
// them as options.
func (m *Manager) writable(owner string) (options []string, undo release, err error) {
	if owner == "" || path.Base(owner) != owner {
		return nil, nil, &InvalidError{"option", optionReadWrite, "is possible for a container only"}
	}
	home, err := m.makePoint(path.Join(m.root, owner), true)
	if err != nil {
		return nil, nil, err
	}
	defer home.close()
	var made []string
	undo = func() error {
		var errs []error
		for _, dir := range made {
			errs = append(errs, os.RemoveAll(dir))
		}
		return errors.Join(append(errs, home.remove())...)
	}
	for _, d := range []struct{ option, name string }{{"upperdir=", "upper"}, {"workdir=", "work"}} {
		dir := path.Join(m.root, owner, d.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			if errors.Is(err, os.ErrExist) {
				err = &InvalidError{"option", optionReadWrite, "is possible once for a container: " + dir + " exists"}
			}
			return nil, nil, errors.Join(err, undo())
		}
		made = append(made, dir)
		options = append(options, d.option+dir)
	}
	return options, undo, nil
}

// overlay makes a mount of an overlay. fsconfig(2) takes values of 255 bytes,
// which a few layers exceed; what is longer takes the older way.
func (m *Manager) overlay(o *mount.Options) (*mount.Tree, error) {
	const maxValue = 255
	long := func(p mount.Param) bool { return len(p.Value) > maxValue || strings.Contains(p.Value, ",") }
	if !slices.ContainsFunc(o.Data, long) {
		return mount.FS("overlay", "overlay", o.Data, o.Attr)
	}
	var data []string
	for _, p := range o.Data {
		if p.Key == "lowerdir" {
			layers, err := openLayers(p.Value)
			if err != nil {
				return nil, err
			}
			defer layers.close()
			p.Value = layers.String()
		}
		p.Value = strings.ReplaceAll(p.Value, ",", `\,`)
		data = append(data, p.String())
	}
	return m.mountLong(strings.Join(data, ","))
}

// descriptors are open directories.
type descriptors []int

func (d descriptors) close() {
	for _, fd := range d {
		unix.Close(fd)
	}
}

// String names them in as few bytes as possible: mount(2) takes a page of
// options.
func (d descriptors) String() string {
	var names []string
	for _, fd := range d {
		names = append(names, procPath(fd))
	}
	return strings.Join(names, ":")
}

// openLayers opens the directories of the option lowerdir=, which colons divide
// (Documentation/filesystems/overlayfs.rst).
func openLayers(value string) (layers descriptors, err error) {
	for _, name := range splitLayers(value) {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			layers.close()
			return nil, &os.PathError{Op: "open layer", Path: name, Err: err}
		}
		layers = append(layers, fd)
	}
	if len(layers) > maxLayers {
		layers.close()
		return nil, &InvalidError{"options", "lowerdir", fmt.Sprintf("has %d layers; there may be %d", len(layers), maxLayers)}
	}
	return layers, nil
}

// splitLayers divides at colons that no backslash is before, and drops the
// backslashes.
func splitLayers(value string) []string {
	var names []string
	var name strings.Builder
	for i := 0; i < len(value); i++ {
		switch {
		case value[i] == '\\' && i+1 < len(value):
			i++
			name.WriteByte(value[i])
		case value[i] == ':':
			names = append(names, name.String())
			name.Reset()
		default:
			name.WriteByte(value[i])
		}
	}
	return append(names, name.String())
}

// mountLong makes an overlay with options that only mount(2) takes, which is
// for a moment on a directory of our own.
func (m *Manager) mountLong(data string) (*mount.Tree, error) {
	dir, err := os.MkdirTemp(m.root, ".overlay-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	tree, err := cloneAt(dir)
	if umountErr := unix.Unmount(dir, unix.MNT_DETACH); umountErr != nil {
		err = errors.Join(err, &os.PathError{Op: "unmount", Path: dir, Err: umountErr})
	}
	if err != nil && tree != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, err
}

// cloneAt returns a copy of the mount on dir.
func cloneAt(dir string) (*mount.Tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return mount.Bind(fd, false)
}
