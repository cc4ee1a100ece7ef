// Package inroot resolves and creates paths inside a directory that its
// contents cannot lead out of, as securejoin does for runc, with openat2(2) and
// RESOLVE_IN_ROOT: the root file system of a container, which its
// image and its other containers may have filled with symbolic links, or the
// shared folder of the pod.
//
// Everything is by descriptor. An absolute symbolic link starts at the root
// again, ".." stops there, and magic links of procfs are refused, so whatever
// a caller does through a returned descriptor happens inside the root as it was
// at that moment. The package does not keep a resolved file from being renamed
// afterwards; that is why callers use the descriptor and never the path again.
package inroot

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may contain, as in the kernel.
const maxLinks = 40

// Open opens path inside root with the flags of open(2); O_CLOEXEC is added.
// The caller closes the descriptor.
func Open(root int, path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EAGAIN, unix.EINTR:
			// EAGAIN: something was renamed or mounted meanwhile and ".." could
			// not be proved safe; openat2(2) says to try again.
		default:
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// MkdirAll returns an O_PATH descriptor of the directory path inside root and
// creates what is missing of it with mode. A link that leads nowhere is
// followed and its target created.
func MkdirAll(root int, path string, mode uint32) (int, error) {
	return create(root, path, mode, unix.S_IFDIR)
}

// Create returns an O_PATH descriptor of what path names inside root. If there
// is nothing an empty file with mode is made, and missing directories above
// with mode 0755.
func Create(root int, path string, mode uint32) (int, error) {
	return create(root, path, mode, unix.S_IFREG)
}

func create(root int, path string, mode uint32, kind uint32) (int, error) {
	flags := unix.O_PATH
	if kind == unix.S_IFDIR {
		flags |= unix.O_DIRECTORY
	}
	if fd, err := Open(root, path, flags); err == nil {
		return fd, nil
	}
	w := walk{dirs: []int{root}, rest: split(path), mode: mode, kind: kind}
	defer w.close()
	fd, err := w.run()
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: path, Err: err}
	}
	return fd, nil
}

// split returns the components of path without empty ones and ".".
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// walk resolves a path one component at a time and creates what is missing.
type walk struct {
	dirs  []int    // open directories from the root, which is dirs[0], down
	rest  []string // components still to resolve
	links int
	mode  uint32
	kind  uint32 // of the last component
}

// close closes all directories but the root, which is the caller's.
func (w *walk) close() {
	for _, fd := range w.dirs[1:] {
		unix.Close(fd)
	}
}

func (w *walk) run() (int, error) {
	for len(w.rest) > 0 {
		name := w.rest[0]
		w.rest = w.rest[1:]
		switch name {
		case ".":
			continue
		case "..":
			w.up()
			continue
		}
		if err := w.down(name); err != nil {
			return -1, err
		}
	}
	// A duplicate, because close closes every descriptor of the walk.
	return unix.FcntlInt(uintptr(w.dirs[len(w.dirs)-1]), unix.F_DUPFD_CLOEXEC, 0)
}

func (w *walk) up() {
	if last := len(w.dirs) - 1; last > 0 {
		unix.Close(w.dirs[last])
		w.dirs = w.dirs[:last]
	}
}

// down enters name, following it if it is a link and making it if it is
// missing.
func (w *walk) down(name string) error {
	parent := w.dirs[len(w.dirs)-1]
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		if err = w.make(parent, name); err == nil || err == unix.EEXIST {
			fd, err = unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		defer unix.Close(fd)
		return w.follow(fd)
	case kind != unix.S_IFDIR && (w.kind == unix.S_IFDIR || len(w.rest) > 0):
		unix.Close(fd)
		return unix.ENOTDIR
	}
	w.dirs = append(w.dirs, fd)
	return nil
}

// follow puts the target of a symbolic link in front of what is to resolve.
func (w *walk) follow(link int) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", buf)
	if err != nil {
		return err
	}
	// A magic link of procfs reads like a path and leads elsewhere; what it
	// reads like is resolved inside the root, which is harmless.
	target := string(buf[:n])
	if strings.HasPrefix(target, "/") {
		for len(w.dirs) > 1 {
			w.up()
		}
	}
	w.rest = append(split(target), w.rest...)
	return nil
}

func (w *walk) make(parent int, name string) error {
	if len(w.rest) > 0 {
		return unix.Mkdirat(parent, name, 0o755)
	}
	if w.kind == unix.S_IFDIR {
		return unix.Mkdirat(parent, name, w.mode)
	}
	fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, w.mode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
