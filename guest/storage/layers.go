package storage

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
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
	driverLayers = "erofs.multi-layer"
	optionLayer  = "X-kata.multi-layer=true"
	optionUpper  = "X-kata.overlay-upper"
	optionLower  = "X-kata.overlay-lower"
	optionMkdir  = "X-kata.mkdir.path="
	optionOurs   = "X-kata."
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
		if err := checkOptions(l, driverLayers); err != nil {
			return err
		}
		if !isUpper(l) {
			continue
		}
		if top >= 0 {
			return invalid("source", l.Source, "is a second upper layer")
		}
		top = i
	}
	if top >= 0 && len(j.layers) == 1 {
		return invalid("source", j.layers[top].Source, "is an upper layer without lower ones")
	}
	if len(j.layers) > maxLayers {
		return invalid("driver", driverLayers, "has more than 500 layers")
	}
	first := j.layers[max(top, 0)]
	j.Storage = &agentpb.Storage{Driver: driverLayers, Source: first.Source, MountPoint: first.MountPoint, Shared: first.Shared}
	return nil
}

// mountLayers mounts an overlay of disks.
func mountLayers(ctx context.Context, m *Manager, j *job) (release, error) {
	s, err := m.newScratch()
	if err != nil {
		return nil, err
	}
	defer s.close()
	var upper *mount.Tree
	var lower []*mount.Tree
	for i, l := range j.layers {
		tree, err := m.mountLayer(ctx, l)
		if err == nil {
			err = s.add(tree)
		}
		if err != nil {
			return nil, failed("layer "+strconv.Itoa(i), err)
		}
		if isUpper(l) {
			upper = tree
		} else {
			lower = append(lower, tree)
		}
	}
	for _, l := range j.layers {
		for _, option := range l.Options {
			if err := makeDirectory(option, upper, lower); err != nil {
				return nil, err
			}
		}
	}
	if upper == nil && len(lower) == 1 { // nothing to overlay
		tree, err := mount.Bind(lower[0].FD(), false)
		if err != nil {
			return nil, err
		}
		return m.attach(tree, new(mount.Options), j, true)
	}
	data := "lowerdir="
	for i, tree := range lower {
		if i > 0 {
			data += ":"
		}
		data += procPath(tree.FD())
	}
	if upper != nil {
		if data, err = s.addUpper(data, upper); err != nil {
			return nil, err
		}
	}
	return s.attachOverlay(j, new(mount.Options), data)
}

// mountLayer mounts one disk, nowhere yet.
func (m *Manager) mountLayer(ctx context.Context, l *agentpb.Storage) (*mount.Tree, error) {
	var options []string
	for _, option := range l.Options {
		if !strings.HasPrefix(option, optionOurs) {
			options = append(options, option)
		}
	}
	fstype, driver := l.Fstype, l.Driver
	if !isUpper(l) {
		options = append(options, "ro")
		if fstype == "" {
			fstype = "erofs"
		}
	} else if fstype == "" {
		fstype = "ext4"
	}
	if driver == driverLayers {
		driver = "blk"
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	find, err := m.disk(driver, l.Source)
	if err != nil {
		return nil, err
	}
	return mountFound(ctx, find, fstype, l.Source, &o)
}

// makeDirectory makes what an option X-kata.mkdir.path= asks for; others it
// skips.
func makeDirectory(option string, upper *mount.Tree, lower []*mount.Tree) error {
	directory, ok := strings.CutPrefix(option, optionMkdir)
	if !ok {
		return nil
	}
	name, octal, hasMode := strings.Cut(directory, ":")
	mode := uint64(0o755)
	if hasMode {
		var err error
		if mode, err = strconv.ParseUint(octal, 8, 32); err != nil || mode > 0o7777 {
			return invalid("option", option, "has no mode in octal")
		}
	}
	in := upper
	if below, ok := strings.CutPrefix(name, "{{ mount 0 }}"); ok {
		name = below
	} else if below, ok := strings.CutPrefix(name, "{{ mount 1 }}"); ok && len(lower) > 0 {
		name, in = below, lower[0]
	}
	if in == nil || strings.Trim(name, "/") == "" || strings.IndexByte(name, 0) >= 0 {
		return invalid("option", option, "is not a directory in the upper layer")
	}
	fd, err := inroot.MkdirAll(in.FD(), name, 0o755)
	if err != nil {
		return failed("option "+option, err)
	}
	defer unix.Close(fd)
	if !hasMode {
		return nil
	}
	return unix.Chmod(procPath(fd), uint32(mode))
}
