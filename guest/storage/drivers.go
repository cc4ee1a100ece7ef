package storage

import (
	"context"
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/machine/device"
	"kata/guest/storage/mount"
)

// mountVirtioFS mounts the shared folder whose tag is the source.
func mountVirtioFS(_ context.Context, m *Manager, j *job) (release, error) {
	return m.mountTag("virtiofs", j, j.Options)
}

// mount9P mounts the shared folder whose tag is the source by 9P on virtio.
func mount9P(_ context.Context, m *Manager, j *job) (release, error) {
	if isOption(j.Options, "trans=") {
		return m.mountTag("9p", j, j.Options)
	}
	return m.mountTag("9p", j, append([]string{"trans=virtio"}, j.Options...))
}

func (m *Manager) mountTag(fstype string, j *job, options []string) (release, error) {
	if j.Source == "" {
		return nil, invalid("source", "", "is not the tag of a device")
	}
	if j.Fstype != "" && j.Fstype != fstype {
		return nil, invalid("fstype", j.Fstype, "is not "+fstype)
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	tree, err := mount.FS(fstype, j.Source, o.Data, o.Attr)
	if err != nil {
		return nil, failed("mount "+fstype+" "+strconv.Quote(j.Source), err)
	}
	return m.attach(tree, &o, j, true)
}

// parse parses mount options; one that makes no sense anywhere is invalid.
func parse(options []string) (mount.Options, error) {
	o, err := mount.Parse(options)
	if err != nil {
		return o, invalid("options", strings.Join(options, ","), "are not mount options: "+err.Error())
	}
	return o, nil
}

// mountDisk waits for a disk and mounts its file system, or its node.
func mountDisk(ctx context.Context, m *Manager, j *job) (release, error) {
	if j.Fstype == "" {
		return nil, invalid("fstype", "", "is missing")
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
		return nil, noGroup(j.Storage, "is not possible with option ro")
	}
	if j.Fstype == "bind" || o.Bind {
		block, err := find(ctx)
		if err != nil {
			return nil, err
		}
		return m.bind(ctx, j, block.Path, &o)
	}
	tree, err := mountFound(ctx, find, j.Fstype, j.Source, &o)
	if err != nil {
		return nil, err
	}
	return m.attachOwned(ctx, tree, &o, j, true)
}

// finder waits for a disk.
type finder = func(context.Context) (device.Block, error)

// mountFound waits for a disk, which source names, and mounts its file system.
func mountFound(ctx context.Context, find finder, fstype, source string, o *mount.Options) (*mount.Tree, error) {
	block, err := find(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := mount.FS(fstype, block.Path, o.Data, o.Attr)
	if err != nil {
		return nil, failed("mount "+fstype+" "+block.Path+" ("+source+")", err)
	}
	return tree, nil
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
func (m *Manager) disk(driver, source string) (finder, error) {
	switch {
	case driver == "scsi":
		address, err := device.ParseSCSIAddress(source)
		if err != nil {
			return nil, invalid("source", source, "is not a SCSI address, TARGET:LUN")
		}
		return func(ctx context.Context) (device.Block, error) { return m.devices.SCSI(ctx, address) }, nil
	case device.IsNode(source):
		return func(ctx context.Context) (device.Block, error) { return m.devices.BlockNamed(ctx, source) }, nil
	case driver == "mmioblk" || driver == "nvdimm" || strings.HasPrefix(source, "/"):
		return nil, invalid("source", source, "is not the path of a device below /dev")
	}
	p, err := device.ParsePCIPath(source)
	if err != nil {
		return nil, invalid("source", source, "is neither a path below /dev nor a PCI path, as 02/01")
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
		return nil, invalid("fstype", j.Fstype, "is neither tmpfs nor hugetlbfs")
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
		return nil, failed("mount tmpfs", err)
	}
	if err := giveTo(tree.FD(), group); err != nil {
		return nil, errors.Join(failed("give "+j.MountPoint+" to a group", err), tree.Close())
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
			return nil, invalid("option", option, "is neither mode=OCTAL nor fsgid=NUMBER")
		}
		mode = uint32(n)
	}
	point, err := m.makePoint(j.MountPoint, true)
	if err != nil {
		return nil, failed("make directory "+j.MountPoint, err)
	}
	defer point.close()
	err = unix.Chmod(procPath(point.fd.Number()), mode)
	if err == nil {
		err = giveTo(point.fd.Number(), group)
	}
	if err == nil {
		err = j.own(ctx, point.fd.Number())
	}
	if err != nil {
		return nil, errors.Join(failed("make directory "+j.MountPoint, err), point.remove())
	}
	return point.remove, nil
}

// mountBind makes a file or directory of the guest available in another place.
func mountBind(ctx context.Context, m *Manager, j *job) (release, error) {
	if !path.IsAbs(j.Source) || strings.IndexByte(j.Source, 0) >= 0 {
		return nil, invalid("source", j.Source, "is not an absolute path")
	}
	if j.Fstype != "" && j.Fstype != "bind" {
		return nil, invalid("fstype", j.Fstype, "is not bind")
	}
	o, err := parse(j.Options)
	if err != nil {
		return nil, err
	}
	return m.bind(ctx, j, j.Source, &o)
}

func (m *Manager) bind(ctx context.Context, j *job, from string, o *mount.Options) (release, error) {
	if len(o.Data) != 0 {
		return nil, invalid("option", o.Data[0].String(), "is not one of a bind mount")
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
		return nil, failed("bind "+from, err)
	}
	return m.attachOwned(ctx, tree, o, j, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
}
