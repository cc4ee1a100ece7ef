package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/inroot"
	"kata/guest/mount"
)

// An overlay of disks is several storages that become one mount: those with the
// driver erofs.multi-layer or the option X-kata.multi-layer=true, upstream's
// names. Their sources are those of driver blk, or of the driver they name.
//
// Lower layers (fstype erofs, or the option X-kata.overlay-lower) are mounted
// read-only; the first is the topmost. At most one is the upper layer (another
// fstype, ext4 say, or the option X-kata.overlay-upper): its directories upper
// and work, made if they are missing, are written to, and its mount point is
// that of the overlay. Each of its options X-kata.mkdir.path=PATH[:MODE] is a
// directory to make before; PATH may begin with "{{ mount 0 }}", the upper
// layer, which is also where it lies without that, or "{{ mount 1 }}", the first
// lower one. Without an upper layer the overlay is read-only, on the mount point
// of the first.
const (
	driverLayers  = "erofs.multi-layer"
	optionLayer   = "X-kata.multi-layer=true"
	optionUpper   = "X-kata.overlay-upper"
	optionLower   = "X-kata.overlay-lower"
	optionMkdir   = "X-kata.mkdir.path="
	optionOwnKind = "X-kata."
)

// isLayer reports whether s is part of an overlay of disks.
func isLayer(s *agentpb.Storage) bool {
	return s.Driver == driverLayers || slices.Contains(s.Options, optionLayer)
}

// isUpper reports whether a layer is the one to write to.
func isUpper(s *agentpb.Storage) bool {
	return !slices.Contains(s.Options, optionLower) && (slices.Contains(s.Options, optionUpper) || s.Fstype != "" && s.Fstype != "erofs")
}

// setTop finds out which layer the whole is named by.
func (j *job) setTop() error {
	top := -1
	for i, l := range j.layers {
		if len(l.DriverOptions) != 0 {
			return refuse(l.DriverOptions[0], driverLayers)
		}
		if l.FsGroup != nil {
			return &InvalidError{"fs_group", fmt.Sprint(l.FsGroup.GroupId), "is not possible with driver " + driverLayers}
		}
		if !isUpper(l) {
			continue
		}
		if top >= 0 {
			return &InvalidError{"source", l.Source, "is a second upper layer"}
		}
		top = i
	}
	switch {
	case top >= 0 && len(j.layers) == 1:
		return &InvalidError{"source", j.layers[top].Source, "is an upper layer without lower ones"}
	case len(j.layers) > maxLayers:
		return &InvalidError{"driver", driverLayers, fmt.Sprintf("has %d layers; there may be %d", len(j.layers), maxLayers)}
	}
	first := j.layers[max(top, 0)]
	j.Storage = &agentpb.Storage{Driver: driverLayers, Source: first.Source, MountPoint: first.MountPoint, Shared: first.Shared}
	return nil
}

// layer is a disk that is mounted while the overlay is made; the overlay holds
// on to the file system by itself.
type layer struct {
	tree *mount.Tree
	dir  string
}

// mountLayers mounts an overlay of disks.
func mountLayers(ctx context.Context, m *Manager, j *job) (release, error) {
	scratch, err := os.MkdirTemp(m.root, ".layers-")
	if err != nil {
		return nil, err
	}
	var undo []release
	defer func() {
		for _, u := range slices.Backward(undo) {
			_ = u() // an unmount of what we have just mounted
		}
		_ = os.Remove(scratch)
	}()
	var upper *layer
	var lower []*layer
	var directories []string
	for i, s := range j.layers {
		l, err := m.mountLayer(ctx, s, path.Join(scratch, strconv.Itoa(i)))
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		undo = append(undo, l.close)
		if isUpper(s) {
			upper = l
		} else {
			lower = append(lower, l)
		}
		for _, option := range s.Options {
			if directory, ok := strings.CutPrefix(option, optionMkdir); ok {
				directories = append(directories, directory)
			}
		}
	}
	for _, directory := range directories {
		if err := makeDirectory(directory, upper, lower); err != nil {
			return nil, err
		}
	}
	return m.joinLayers(j, upper, lower)
}

// mountLayer mounts one disk on dir, which it makes.
func (m *Manager) mountLayer(ctx context.Context, s *agentpb.Storage, dir string) (*layer, error) {
	options := slices.DeleteFunc(slices.Clone(s.Options), func(o string) bool { return strings.HasPrefix(o, optionOwnKind) })
	fstype := s.Fstype
	switch {
	case fstype == "" && isUpper(s):
		fstype = "ext4"
	case fstype == "":
		fstype = "erofs"
	}
	if !isUpper(s) {
		options = append(options, "ro")
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	driver := s.Driver
	if driver == driverLayers {
		driver = "blk"
	}
	find, err := m.disk(driver, s.Source)
	if err != nil {
		return nil, err
	}
	block, err := find(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := mount.FS(fstype, block.Path, o.Data, o.Attr)
	if err != nil {
		return nil, fmt.Errorf("mount %s %s (%s): %w", fstype, block.Path, s.Source, err)
	}
	if err := attachAt(tree, dir); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return &layer{tree: tree, dir: dir}, nil
}

// attachAt attaches a mount to a new directory of our own.
func attachAt(tree *mount.Tree, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = tree.Attach(fd)
		unix.Close(fd)
	}
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return nil
}

func (l *layer) close() error {
	return errors.Join(unix.Unmount(l.dir, unix.MNT_DETACH), l.tree.Close(), os.Remove(l.dir))
}

// makeDirectory makes what an option X-kata.mkdir.path= asks for.
func makeDirectory(directory string, upper *layer, lower []*layer) error {
	name, octal, hasMode := strings.Cut(directory, ":")
	mode := uint64(0o755)
	if hasMode {
		var err error
		if mode, err = strconv.ParseUint(octal, 8, 32); err != nil || mode > 0o7777 {
			return &InvalidError{"option", optionMkdir + directory, "has no mode in octal"}
		}
	}
	in := upper
	if below, ok := strings.CutPrefix(name, "{{ mount 0 }}"); ok {
		name = below
	} else if below, ok := strings.CutPrefix(name, "{{ mount 1 }}"); ok && len(lower) > 0 {
		name, in = below, lower[0]
	}
	if in == nil || strings.Trim(name, "/") == "" || strings.IndexByte(name, 0) >= 0 {
		return &InvalidError{"option", optionMkdir + directory, "is not a directory in the upper layer"}
	}
	fd, err := inroot.MkdirAll(in.tree.FD(), name, 0o755)
	if err != nil {
		return fmt.Errorf("option %s%s: %w", optionMkdir, directory, err)
	}
	defer unix.Close(fd)
	if hasMode {
		return os.NewSyscallError("chmod", unix.Chmod(procPath(fd), uint32(mode)))
	}
	return nil
}

// joinLayers mounts the overlay.
func (m *Manager) joinLayers(j *job, upper *layer, lower []*layer) (release, error) {
	var names descriptors
	for _, l := range lower {
		names = append(names, l.tree.FD())
	}
	if upper == nil && len(lower) == 1 { // nothing to overlay
		tree, err := cloneAt(lower[0].dir)
		if err != nil {
			return nil, err
		}
		return m.attach(tree, &mount.Options{}, j, true)
	}
	data := "lowerdir=" + names.String()
	if upper != nil {
		for _, name := range []string{"upper", "work"} {
			fd, err := inroot.MkdirAll(upper.tree.FD(), name, 0o755)
			if err != nil {
				return nil, fmt.Errorf("make directory %s of the upper layer: %w", name, err)
			}
			defer unix.Close(fd)
			data += "," + name + "dir=" + procPath(fd)
		}
	}
	tree, err := m.mountLong(data)
	if err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w", len(lower), err)
	}
	return m.attach(tree, &mount.Options{}, j, true)
}
