package sharedfile

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
	"kata/lib/ownedfd"
)

// place is where something goes: a name in a directory. It holds a descriptor.
type place struct {
	fd   *ownedfd.FD // O_PATH, of the directory
	name string
}

func (p place) close() { _ = p.fd.Close() }

// dir is the number of the directory's descriptor, for who has the place.
func (p place) dir() int { return p.fd.Number() }

// place finds the place of below, a clean path, and makes the directories that
// are missing on the way.
func (t *Tree) place(below string, piece *Piece) (place, error) {
	dir, err := t.openRoot()
	if err != nil {
		return place{}, err
	}
	parents, name := path.Split(below)
	if parents == "" {
		return place{ownedfd.New(dir), name}, nil
	}
	if fd, err := openBeneath(dir, parents); err == nil { // mostly it is all there
		unix.Close(dir)
		return place{ownedfd.New(fd), name}, nil
	}
	for parents != "" {
		var part string
		part, parents, _ = strings.Cut(parents, "/")
		next, err := enter(dir, part, piece)
		unix.Close(dir)
		if err != nil {
			return place{}, err
		}
		dir = next
	}
	return place{ownedfd.New(dir), name}, nil
}

// openRoot returns an O_PATH descriptor of the root. It is looked up each time,
// since a shared folder may be mounted on it meanwhile.
func (t *Tree) openRoot() (int, error) {
	fd, err := unix.Open(t.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		if err := os.MkdirAll(t.root, 0o755); err != nil {
			return -1, err
		}
		fd, err = unix.Open(t.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: t.root, Err: err}
	}
	return fd, nil
}

// openBeneath opens a directory below dir without following any link.
func openBeneath(dir int, below string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, below, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // something was renamed meanwhile
			return fd, err
		}
	}
}

// enter opens the directory name in dir and makes it if it is missing.
func enter(dir int, name string, piece *Piece) (int, error) {
	fd, err := openBeneath(dir, name)
	if err == unix.ENOENT {
		if err = makeDir(dir, name, piece, piece.DirMode); err == nil || errors.Is(err, unix.EEXIST) {
			fd, err = openBeneath(dir, name)
		}
	}
	switch err {
	case nil:
		return fd, nil
	case unix.ENOTDIR, unix.ELOOP:
		return -1, fmt.Errorf("%w: %q on the way is no directory", ErrConflict, name)
	}
	return -1, fmt.Errorf("directory %q: %w", name, err)
}

// makeDir makes a directory that is right from its beginning: it has its name
// only when it has its owner and mode.
func makeDir(dir int, name string, piece *Piece, mode uint32) error {
	temporary, err := scratchName()
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, temporary, 0o700); err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	err = adorn(dir, temporary, piece, mode)
	if err == nil {
		// An empty directory may be replaced, but one that somebody else has
		// made is as good.
		if err = unix.Renameat2(dir, temporary, dir, name, unix.RENAME_NOREPLACE); err == unix.EINVAL { // not every file system can
			if err = unix.Renameat(dir, temporary, dir, name); err == unix.ENOTEMPTY {
				err = unix.EEXIST
			}
		}
		err = os.NewSyscallError("renameat2", err)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temporary, unix.AT_REMOVEDIR)
	}
	return err
}

// adorn gives a directory its owner and mode.
func adorn(dir int, name string, piece *Piece, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	return own(fd, piece, mode)
}

// own gives what fd refers to its owner and mode. The mode comes second: a new
// owner takes set-user-ID away.
func own(fd int, piece *Piece, mode uint32) error {
	if err := unix.Fchown(fd, int(piece.UID), int(piece.GID)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, mode&0o7777))
}

// directory makes a directory, or gives one that is there its owner and mode. It
// takes the place of anything else.
func (t *Tree) directory(below string, p *Piece) error {
	at, err := t.place(below, p)
	if err != nil {
		return err
	}
	defer at.close()
	for range maxTries {
		err = adorn(at.dir(), at.name, p, p.Mode)
		if errors.Is(err, unix.ENOENT) {
			err = makeDir(at.dir(), at.name, p, p.Mode)
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			return err
		}
		if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return err
		}
		if err := unix.Unlinkat(at.dir(), at.name, 0); err != nil && err != unix.ENOENT && err != unix.EISDIR {
			return os.NewSyscallError("unlinkat", err)
		}
	}
	return fmt.Errorf("%w: somebody else keeps making it: %w", ErrConflict, err)
}

// maxTries bounds races with containers that write to the same directory.
const maxTries = 8

// link makes a symbolic link in place of what is there, unless that is a
// directory.
func (t *Tree) link(below string, p *Piece) error {
	at, err := t.place(below, p)
	if err != nil {
		return err
	}
	defer at.close()
	temporary, err := scratchName()
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(p.Data), at.dir(), temporary); err != nil {
		return os.NewSyscallError("symlinkat", err)
	}
	err = os.NewSyscallError("fchownat", unix.Fchownat(at.dir(), temporary, int(p.UID), int(p.GID), unix.AT_SYMLINK_NOFOLLOW))
	if err == nil {
		err = at.take(temporary)
	}
	if err != nil {
		_ = unix.Unlinkat(at.dir(), temporary, 0)
	}
	return err
}

// take gives what is called temporary the place's name.
func (p place) take(temporary string) error {
	err := unix.Renameat(p.dir(), temporary, p.dir(), p.name)
	if err == unix.EISDIR || err == unix.ENOTEMPTY || err == unix.EEXIST || err == unix.EBUSY {
		return fmt.Errorf("%w: a directory or mount is there: %w", ErrConflict, err)
	}
	return os.NewSyscallError("renameat", err)
}

// scratchName returns a name that nobody can guess and nothing else has.
func scratchName() (string, error) {
	var random [16]byte
	for n := 0; n < len(random); {
		got, err := unix.Getrandom(random[n:], 0)
		if err != nil && err != unix.EINTR {
			return "", os.NewSyscallError("getrandom", err)
		}
		n += max(got, 0)
	}
	name := []byte(".copy-")
	for _, b := range random {
		name = strconv.AppendUint(name, uint64(b>>4), 16)
		name = strconv.AppendUint(name, uint64(b&15), 16)
	}
	return string(name), nil
}
