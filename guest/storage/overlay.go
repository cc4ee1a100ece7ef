package storage

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/ownedfd"
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
		return nil, invalid("fstype", j.Fstype, "is not overlay")
	}
	var options []string
	writable := false
	for _, option := range j.Options {
		switch {
		case option == optionReadWrite:
			writable = true
		case strings.HasPrefix(option, optionKata):
			return nil, invalid("option", option, "is unknown to driver overlayfs")
		default:
			options = append(options, option)
		}
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	if !o.HasData("lowerdir") || o.HasData("upperdir") != o.HasData("workdir") || writable && o.HasData("upperdir") {
		return nil, invalid("options", strings.Join(j.Options, ","), "are not lowerdir=, with upperdir= and workdir= or "+optionReadWrite+" if it is to be written to")
	}
	s, err := m.newScratch()
	if err != nil {
		return nil, err
	}
	defer s.close()
	data, err := s.overlayData(o.Data)
	if err == nil && writable {
		data, err = s.addMemory(data)
	}
	if err != nil {
		return nil, err
	}
	return s.attachOverlay(j, &o, data)
}

// scratch is a directory of our own, on which mounts are while an overlay of them
// is made. The overlay holds on to what it needs by itself.
type scratch struct {
	manager *Manager
	dir     string
	trees   []*mount.Tree // mounted on 0, 1 … in dir
	open    []*ownedfd.FD
}

// newScratch makes a scratch directory that the caller closes.
func (m *Manager) newScratch() (*scratch, error) {
	s := &scratch{manager: m, dir: m.root + "/.overlay" + strconv.FormatUint(m.scratches.Add(1), 10)}
	if err := unix.Mkdir(s.dir, 0o700); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: s.dir, Err: err}
	}
	return s, nil
}

func (s *scratch) close() {
	for _, fd := range s.open {
		_ = fd.Close()
	}
	for i, tree := range s.trees {
		dir := s.place(i)
		_ = unix.Unmount(dir, unix.MNT_DETACH) // what we have mounted ourselves
		_ = tree.Close()
		_ = unix.Rmdir(dir)
	}
	_ = unix.Rmdir(s.dir)
}

func (s *scratch) place(i int) string { return s.dir + "/" + strconv.Itoa(i) }

// add mounts a tree, of which it takes ownership, in the scratch directory.
func (s *scratch) add(tree *mount.Tree) error {
	dir := s.place(len(s.trees))
	s.trees = append(s.trees, tree)
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	fd, err := s.openDir(dir)
	if err != nil {
		return err
	}
	return tree.Attach(fd)
}

// openDir opens a directory until the scratch is closed.
func (s *scratch) openDir(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	s.open = append(s.open, ownedfd.New(fd))
	return fd, nil
}

// overlayData returns parameters of an overlay as mount(2) takes them: a page of
// them and not the 255 bytes of fsconfig(2), which a few layers exceed. In the
// place of lower layers are their descriptors, which are short.
func (s *scratch) overlayData(params []mount.Param) (string, error) {
	var data []string
	for _, p := range params {
		if p.Key == "lowerdir" {
			var names []string
			for _, name := range splitLayers(p.Value) {
				fd, err := s.openDir(name)
				if err != nil {
					return "", err
				}
				names = append(names, procPath(fd))
			}
			if len(names) > maxLayers {
				return "", invalid("options", "lowerdir", "has more than 500 layers")
			}
			p.Value = strings.Join(names, ":")
		}
		p.Value = strings.ReplaceAll(p.Value, ",", `\,`)
		data = append(data, p.String())
	}
	return strings.Join(data, ","), nil
}

// splitLayers divides at colons that no backslash is before, and drops the
// backslashes (Documentation/filesystems/overlayfs.rst).
func splitLayers(value string) []string {
	names := []string{""}
	for i := 0; i < len(value); i++ {
		if value[i] == ':' {
			names = append(names, "")
			continue
		}
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		names[len(names)-1] += value[i : i+1]
	}
	return names
}

// addMemory adds an upper layer in the guest's memory to the data of an overlay.
// It goes with the overlay.
func (s *scratch) addMemory(data string) (string, error) {
	tree, err := mount.FS("tmpfs", "overlay", []mount.Param{{Key: "mode", Value: "755"}}, mount.Attr{})
	if err == nil {
		err = s.add(tree)
	}
	if err != nil {
		return "", err
	}
	return s.addUpper(data, tree)
}

// addUpper adds the directories upper and work of a tree to the data of an
// overlay. They are made if they are missing.
func (s *scratch) addUpper(data string, tree *mount.Tree) (string, error) {
	for _, name := range [...]string{"upper", "work"} {
		fd, err := inroot.MkdirAll(tree.FD(), name, 0o755)
		if err != nil {
			return "", failed("make the overlay's directory "+name, err)
		}
		s.open = append(s.open, ownedfd.New(fd))
		data += "," + name + "dir=" + procPath(fd)
	}
	return data, nil
}

// attachOverlay mounts an overlay where j wants it.
func (s *scratch) attachOverlay(j *job, o *mount.Options, data string) (release, error) {
	dir := s.dir + "/overlay"
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	defer unix.Rmdir(dir)
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		return nil, failed("mount overlay", err)
	}
	fd, err := s.openDir(dir)
	var tree *mount.Tree
	if err == nil {
		tree, err = mount.Bind(fd, false)
	}
	err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	if err != nil {
		return nil, failed("mount overlay", err)
	}
	return s.manager.attach(tree, o, j, true)
}

// isOption reports whether one of several options begins so.
func isOption(options []string, prefix string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, prefix) })
}
