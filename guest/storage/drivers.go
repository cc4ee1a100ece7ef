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

	"kata/guest/device"
	"kata/guest/mount"
)

// mountVirtioFS mounts the shared folder whose tag is the source.
func mountVirtioFS(_ context.Context, m *Manager, j *job) (release, error) {
	return m.mountTag("virtiofs", j, j.Options)
}

// mount9P mounts the shared folder whose tag is the source by 9P on virtio.
func mount9P(_ context.Context, m *Manager, j *job) (release, error) {
	options := j.Options
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "trans=") }) {
		options = append(slices.Clone(options), "trans=virtio")
	}
	return m.mountTag("9p", j, options)
}

func (m *Manager) mountTag(fstype string, j *job, options []string) (release, error) {
	if j.Source == "" {
		return nil, &InvalidError{"source", "", "is not the tag of a device"}
	}
	if j.Fstype != "" && j.Fstype != fstype {
		return nil, &InvalidError{"fstype", j.Fstype, "is not " + fstype}
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	tree, err := mount.FS(fstype, j.Source, o.Data, o.Attr)
	if err != nil {
		return nil, fmt.Errorf("mount %s %q: %w", fstype, j.Source, err)
	}
	return m.attach(tree, &o, j, true)
}

// parse parses mount options; one that makes no sense anywhere is invalid.
func parse(options []string) (mount.Options, error) {
	o, err := mount.Parse(options)
	if err != nil {
		return o, &InvalidError{"options", strings.Join(options, ","), "are not mount options: " + err.Error()}
	}
	return o, nil
}

// mountDisk waits for a disk and mounts its file system, or its node.
func mountDisk(ctx context.Context, m *Manager, j *job) (release, error) {
	if j.Fstype == "" {
		return nil, &InvalidError{"fstype", "", "is missing"}
	}
	o, err := parse(j.Options)
	if err != nil {
		return nil, err
	}
	find, err := m.disk(j.Driver, j.Source)
	if err != nil {
		return nil, err
	}
	if o.Attr.Readonly() && j.FsGroup != nil {
		return nil, &InvalidError{"fs_group", fmt.Sprint(j.FsGroup.GroupId), "is not possible with option ro"}
	}
	block, err := find(ctx)
	if err != nil {
		return nil, err
	}
	if j.Fstype == "bind" || o.Bind {
		return m.bind(ctx, j, block.Path, &o)
	}
	tree, err := mount.FS(j.Fstype, block.Path, o.Data, o.Attr)
	if err != nil {
		return nil, fmt.Errorf("mount %s %s (%s): %w", j.Fstype, block.Path, j.Source, err)
	}
	return m.attachOwned(ctx, tree, &o, j, true)
}

// attachOwned is attach after the files have been given to a group: nobody sees
// them half done.
func (m *Manager) attachOwned(ctx context.Context, tree *mount.Tree, o *mount.Options, j *job, directory bool) (release, error) {
	if err := j.own(ctx, tree.FD()); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return m.attach(tree, o, j, directory)
}

// disk returns how to wait for the disk that a driver's source names.
func (m *Manager) disk(driver, source string) (func(context.Context) (device.Block, error), error) {
	switch {
	case driver == "scsi":
		address, err := device.ParseSCSIAddress(source)
		if err != nil {
			return nil, &InvalidError{"source", source, "is not a SCSI address, TARGET:LUN"}
		}
		return func(ctx context.Context) (device.Block, error) { return m.devices.SCSI(ctx, address) }, nil
	case device.IsNode(source):
		return func(ctx context.Context) (device.Block, error) { return m.devices.BlockNamed(ctx, source) }, nil
	case driver == "mmioblk" || driver == "nvdimm" || strings.HasPrefix(source, "/"):
		return nil, &InvalidError{"source", source, "is not the path of a device below /dev"}
	}
	p, err := device.ParsePCIPath(source)
	if err != nil {
		return nil, &InvalidError{"source", source, "is neither a path below /dev nor a PCI path, as 02/01"}
	}
	return func(ctx context.Context) (device.Block, error) { return m.devices.BlockAt(ctx, p) }, nil
}

// mountEphemeral mounts memory.
func mountEphemeral(ctx context.Context, m *Manager, j *job) (release, error) {
	switch j.Fstype {
	case "hugetlbfs":
		return mountHugePages(ctx, m, j)
	case "", "tmpfs":
	default:
		return nil, &InvalidError{"fstype", j.Fstype, "is neither tmpfs nor hugetlbfs"}
	}
	group, options, err := j.takeGroup()
	if err != nil {
		return nil, err
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	source := j.Source
	if source == "" {
		source = "tmpfs"
	}
	tree, err := mount.FS("tmpfs", source, o.Data, o.Attr)
	if err != nil {
		return nil, fmt.Errorf("mount tmpfs: %w", err)
	}
	if err := giveTo(tree.FD(), group); err != nil {
		return nil, errors.Join(fmt.Errorf("give %s to group %d: %w", j.MountPoint, group, err), tree.Close())
	}
	return m.attachOwned(ctx, tree, &o, j, true)
}

// makeLocal makes a directory; "mode=" among the options is its mode in octal.
// Undone, it stays if it has contents: those may belong to somebody.
func makeLocal(ctx context.Context, m *Manager, j *job) (release, error) {
	group, options, err := j.takeGroup()
	if err != nil {
		return nil, err
	}
	mode := uint32(0o755)
	for _, option := range options {
		value, ok := strings.CutPrefix(option, "mode=")
		n, err := strconv.ParseUint(value, 8, 32)
		if !ok || err != nil || n > 0o7777 {
			return nil, &InvalidError{"option", option, "is neither mode=OCTAL nor fsgid=NUMBER"}
		}
		mode = uint32(n)
	}
	point, err := m.makePoint(j.MountPoint, true)
	if err != nil {
		return nil, fmt.Errorf("make directory %s: %w", j.MountPoint, err)
	}
	defer point.close()
	err = unix.Chmod(procPath(point.fd), mode)
	if err == nil {
		err = giveTo(point.fd, group)
	}
	if err == nil {
		err = j.own(ctx, point.fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make directory %s: %w", j.MountPoint, err), point.remove())
	}
	return point.remove, nil
}

// mountBind makes a file or directory of the guest available in another place.
func mountBind(ctx context.Context, m *Manager, j *job) (release, error) {
	if !path.IsAbs(j.Source) || strings.IndexByte(j.Source, 0) >= 0 {
		return nil, &InvalidError{"source", j.Source, "is not an absolute path"}
	}
	if j.Fstype != "" && j.Fstype != "bind" {
		return nil, &InvalidError{"fstype", j.Fstype, "is not bind"}
	}
	o, err := parse(j.Options)
	if err != nil {
		return nil, err
	}
	return m.bind(ctx, j, j.Source, &o)
}

func (m *Manager) bind(ctx context.Context, j *job, from string, o *mount.Options) (release, error) {
	if len(o.Data) != 0 {
		return nil, &InvalidError{"option", o.Data[0].String(), "is not one of a bind mount"}
	}
	source, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(source)
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return nil, &os.PathError{Op: "stat", Path: from, Err: err}
	}
	tree, err := mount.Bind(source, o.Recursive)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", from, err)
	}
	return m.attachOwned(ctx, tree, o, j, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
}
