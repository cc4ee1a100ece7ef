package sharedfile

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/lib/ownedfd"
)

// draft is a file that is being written and has no name yet, where the file
// system can do that, or else one that nobody knows. It holds two descriptors.
type draft struct {
	at        place
	fd        *ownedfd.FD
	temporary string // its name, if it has one
}

// newDraft begins a file that will be at below.
func (t *Tree) newDraft(below string, p *Piece) (*draft, error) {
	at, err := t.place(below, p)
	if err != nil {
		return nil, err
	}
	d := &draft{at: at}
	if err := d.open(); err != nil {
		at.close()
		return nil, err
	}
	return d, nil
}

// open opens a file without a name, or one with a secret one.
func (d *draft) open() (err error) {
	err = d.make(".", unix.O_RDWR|unix.O_CLOEXEC|unix.O_TMPFILE)
	if err == unix.EOPNOTSUPP || err == unix.EISDIR || err == unix.EINVAL { // FUSE can since Linux 6.2
		return d.openNamed()
	}
	return os.NewSyscallError("openat", err)
}

func (d *draft) openNamed() (err error) {
	if d.temporary, err = scratchName(); err != nil {
		return err
	}
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	return os.NewSyscallError("openat", d.make(d.temporary, flags))
}

// make opens the draft's file, called name in its directory.
func (d *draft) make(name string, flags int) error {
	return d.at.fd.Use(func(dir int) error {
		fd, err := unix.Openat(dir, name, flags, 0o600)
		if err == nil {
			d.fd = ownedfd.New(fd)
		}
		return err
	})
}

// discard gives the draft up. After finish it only releases the descriptors.
func (d *draft) discard() {
	if d.temporary != "" {
		_ = unix.Unlinkat(d.at.dir(), d.temporary, 0)
	}
	_ = d.fd.Close()
	d.at.close()
}

// finish gives the file its owner, mode and name. The draft is discarded
// afterwards in any case.
func (d *draft) finish(p *Piece) error {
	if err := d.fd.Use(func(fd int) error { return own(fd, p, p.Mode) }); err != nil {
		return err
	}
	if d.temporary == "" {
		// A link cannot replace a file, so it is renamed as the others are.
		temporary, err := scratchName()
		if err != nil {
			return err
		}
		err = d.fd.Use(func(fd int) error {
			return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), d.at.dir(), temporary, unix.AT_SYMLINK_FOLLOW)
		})
		if err != nil {
			return os.NewSyscallError("linkat", err)
		}
		d.temporary = temporary
	}
	if err := d.at.take(d.temporary); err != nil {
		return err
	}
	d.temporary = ""
	return nil
}

// write writes all of data at offset.
func (d *draft) write(data []byte, offset int64) error {
	for len(data) > 0 {
		n := 0
		err := d.fd.Use(func(fd int) (err error) {
			n, err = unix.Pwrite(fd, data, offset)
			return err
		})
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// holds reports whether data is what has been written at offset.
func (d *draft) holds(data []byte, offset int64) (bool, error) {
	buf := make([]byte, min(len(data), 64<<10))
	for len(data) > 0 {
		n := 0
		err := d.fd.Use(func(fd int) (err error) {
			n, err = unix.Pread(fd, buf[:min(len(buf), len(data))], offset)
			return err
		})
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("pread", err)
		}
		if n == 0 {
			return false, errors.New("the file has become shorter")
		}
		if string(buf[:n]) != string(data[:n]) {
			return false, nil
		}
		data, offset = data[n:], offset+int64(n)
	}
	return true, nil
}
