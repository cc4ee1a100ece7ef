package rootfs

import (
	"errors"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/fault"
	"kata/guest/storage/inroot"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// mount makes the plan's mount of index i.
func (r *Root) mount(i int, m *plan.Mount) error {
	o := m.Options // which mountFS changes
	dest := path.Clean("/" + m.Destination)
	if dest == "/" {
		return errors.New("the root itself cannot be mounted over")
	}
	tree := r.trees[i]
	delete(r.trees, i)
	if m.IsBind() {
		defer tree.Close()
		return r.bind(dest, tree, &o)
	}
	return r.mountFS(dest, m.Type, m.Source, &o, tree)
}

// bind mounts tree, which shows a part of the guest's, on dest.
func (r *Root) bind(dest string, tree *mount.Tree, o *mount.Options) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree.FD(), &st); err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if err := checkProcPath(dest, isProc(tree.FD()) && st.Ino == procRootInode, isDir); err != nil {
		return err
	}
	make := inroot.Create
	if isDir {
		make = inroot.MkdirAll
	}
	target, err := make(r.FD(), dest, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := r.checkTarget(dest, target); err != nil {
		return err
	}
	if err := tree.Configure(o); err != nil {
		return err
	}
	if err := tree.Attach(target); err != nil {
		return err
	}
	return tree.Propagate(o)
}

// mountFS mounts a file system of its own on dest: made, if it is not given.
func (r *Root) mountFS(dest, fstype, source string, o *mount.Options, tree *mount.Tree) error {
	switch fstype {
	case "":
		return refuse("the mount has no type")
	case "cgroup", "cgroup2":
		// What the process may see of it is decided by its cgroup namespace.
		// Options of version 1 mean nothing to version 2.
		fstype, source, o.Data = "cgroup2", "cgroup", nil
	}
	if err := checkProcPath(dest, fstype == "proc", true); err != nil {
		return err
	}
	existing, err := inroot.Open(r.FD(), dest, unix.O_PATH|unix.O_DIRECTORY)
	existed := err == nil
	target := existing
	if !existed {
		if target, err = inroot.MkdirAll(r.FD(), dest, 0o755); err != nil {
			return err
		}
	}
	defer unix.Close(target)
	if fstype == "proc" || fstype == "sysfs" {
		// A link here would leave /proc itself to the image.
		if err := r.checkOrdinary(dest); err != nil {
			return err
		}
	}
	if err := r.checkTarget(dest, target); err != nil {
		return err
	}
	if tree == nil {
		if tree, err = r.newFS(fstype, source, target, existed, o); err != nil {
			return err
		}
	}
	if err := tree.Attach(target); err != nil {
		tree.Close()
		return err
	}
	if err := tree.Propagate(o); err != nil {
		tree.Close()
		return err
	}
	if fstype == "tmpfs" && o.Attr.Then(o.AttrRec).Readonly() {
		r.sealed = append(r.sealed, tree)
		return nil
	}
	return tree.Close()
}

// newFS makes the file system that will cover target.
func (r *Root) newFS(fstype, source string, target int, existed bool, o *mount.Options) (*mount.Tree, error) {
	if source == "" {
		source = fstype
	}
	attr := mount.Attr{Set: o.Attr.Then(o.AttrRec).Set}
	params := o.Data
	if fstype == "tmpfs" {
		attr.Set &^= unix.MOUNT_ATTR_RDONLY // in the end; see sealed
		if existed && !o.HasData("mode") {
			var st unix.Stat_t
			if err := unix.Fstat(target, &st); err != nil {
				return nil, err
			}
			mode := strconv.FormatUint(uint64(st.Mode&0o7777), 8)
			params = append(params[:len(params):len(params)], mount.Param{Key: "mode", Value: mode})
		}
	}
	tree, err := mount.FS(fstype, source, params, attr)
	if err != nil {
		return nil, err
	}
	if o.CopyUp && fstype == "tmpfs" {
		if err := copyUp(target, tree.FD()); err != nil {
			tree.Close()
			return nil, fmt.Errorf("copy what it covers: %w", err)
		}
	}
	return tree, nil
}

// overProc are the files of procfs that may be replaced, because container
// managers show limited numbers there (as in runc).
var overProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

const procRootInode = 1 // PROC_ROOT_INO, include/linux/proc_ns.h

// refuse is the error of a mount that makes no sense.
func refuse(why string) error { return fault.New(fault.Invalid, why) }

// checkProcPath decides by its name whether something may be mounted on dest:
// on /proc only procfs, in it only files that may be replaced.
func checkProcPath(dest string, procfs, isDir bool) error {
	if dest == "/proc" {
		if !procfs {
			return refuse("only procfs can be mounted on /proc")
		}
		return nil
	}
	if !strings.HasPrefix(dest, "/proc/") {
		return nil
	}
	for _, allowed := range overProc {
		if dest == allowed && !isDir {
			return nil
		}
	}
	return refuse("this cannot be mounted inside /proc")
}

// checkTarget decides by what it has been resolved to whether target may be
// mounted on: a link must not lead a harmless name into procfs.
func (r *Root) checkTarget(dest string, target int) error {
	if !isProc(target) || dest == "/proc" {
		return nil
	}
	if !strings.HasPrefix(dest, "/proc/") {
		return refuse("the destination leads into /proc")
	}
	// The name is one that may be replaced (checkProcPath). It is that file if
	// /proc is the root of this very procfs and no link.
	if err := r.checkOrdinary("/proc"); err != nil {
		return err
	}
	proc, err := inroot.Open(r.FD(), "/proc", unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	var top, st unix.Stat_t
	if err := errors.Join(unix.Fstat(proc, &top), unix.Fstat(target, &st)); err != nil {
		return err
	}
	if top.Ino != procRootInode || top.Dev != st.Dev {
		return errors.New("the destination is in a procfs that is not the one on /proc")
	}
	return nil
}

// checkOrdinary makes sure that no component of dest is a symbolic link.
func (r *Root) checkOrdinary(dest string) error {
	fd, err := unix.Openat2(r.FD(), dest, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err == unix.ELOOP {
		return errors.New("the destination is not an ordinary directory: there is a symbolic link in " + dest)
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func isProc(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}
