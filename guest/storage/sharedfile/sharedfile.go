// Package sharedfile takes files, directories and symbolic links from the host
// where no folder is shared: CopyFile of the agent API.
//
// Everything lands below one directory. Containers can write there too, so no
// symbolic link on the way is ever followed, and nothing is done by path that
// could be done by descriptor.
//
// # Whole files
//
// A large file comes in pieces. It is written to a file without a name and gets
// its name, owner and mode all at once when the last byte is there: whoever reads
// the old file reads all of it, and nobody sees half of the new one.
//
// Pieces name their file by its path only. Pieces of one connection with the same
// path, size, owner and modes make one file, and each has to go on where the one
// before ended, or to repeat what is there. One that contradicts what is there
// belongs to another copy and is refused, so two copies of a file never mix;
// on connections of their own both succeed, and the last to finish stays.
//
// What is unfinished is given up when its connection ends, when a piece cannot be
// written, when something new needs its place and it has been idle for a while,
// and with Close. There is a bound on how many there are.
package sharedfile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/guest/fault"
)

const (
	// Root is the directory that upstream's hosts copy to.
	Root = api.GuestShare
	// MaxSize is the size of the largest file.
	MaxSize = 1 << 40
	// MaxUnfinished is the number of files that have begun to come.
	MaxUnfinished = 64
	// patience is how long an unfinished file is safe from others.
	patience = 10 * time.Second
)

// Errors that callers tell apart, for errors.Is.
var (
	// ErrConflict: something else is there, or going on.
	ErrConflict = fault.New(fault.State, "conflict")
	// ErrLimit: as many files are unfinished as may be.
	ErrLimit error = fault.Limit
	// ErrClosed: the tree takes nothing any more.
	ErrClosed = fault.New(fault.State, "no files are taken any more")
)

// InvalidError is a piece that makes no sense.
type InvalidError = fault.Error

func invalid(field string, value int64, reason string) error {
	return fault.Field(field, strconv.FormatInt(value, 10), reason)
}

// Piece is a part of a file, or a whole directory or symbolic link.
type Piece struct {
	// Path is absolute and below the tree's root.
	Path string
	// Size of the whole file in bytes.
	Size int64
	// Mode is as in st_mode. Without a file type it is a regular file's.
	Mode uint32
	// DirMode is the mode of directories on the way that are missing; they get
	// the owner of the file. 0 means 0750.
	DirMode  uint32
	UID, GID int32
	// Offset is where Data goes.
	Offset int64
	// Data is the target if Mode is a symbolic link's.
	Data []byte
}

// Tree is a directory that files are put into. Methods may be called
// concurrently. The zero value is not usable: see New.
type Tree struct {
	root     string
	patience time.Duration

	mu         sync.Mutex // never held while doing anything with files
	closed     bool
	unfinished []*upload
}

// New returns the tree below root, which is made when it is needed. The caller
// closes it.
func New(root string) *Tree {
	return &Tree{root: path.Clean(root), patience: patience}
}

// Put takes a piece. owner is the context of the connection that it came on and
// ends with it; ctx is the call's. A piece that makes no sense is an
// InvalidError and changes nothing.
func (t *Tree) Put(ctx, owner context.Context, p Piece) error {
	below, err := t.check(&p)
	if err != nil {
		return err
	}
	if t.isClosed() {
		return ErrClosed
	}
	switch p.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = t.directory(below, &p)
	case unix.S_IFLNK:
		err = t.link(below, &p)
	default:
		err = t.file(ctx, owner, below, &p)
	}
	if err != nil {
		kind := kindOf(err)
		err = &os.PathError{Op: "copy to", Path: p.Path, Err: err}
		if kind != "" {
			err = &fault.Error{Kind: kind, Cause: err}
		}
	}
	return err
}

// kindOf returns what the kernel says against a place for a file, where that is not
// its own failure.
func kindOf(err error) fault.Kind {
	for _, known := range [...]struct {
		errno unix.Errno
		kind  fault.Kind
	}{{unix.EROFS, fault.State}, {unix.ENOSPC, fault.Limit}, {unix.EDQUOT, fault.Limit}, {unix.ENAMETOOLONG, fault.Invalid}} {
		if errors.Is(err, known.errno) {
			return known.kind
		}
	}
	return ""
}

// check finds out whether p makes sense, gives fields that have one their default
// and returns the path below the root.
func (t *Tree) check(p *Piece) (below string, err error) {
	below = strings.TrimPrefix(path.Clean(p.Path), t.root+"/")
	if reason := checkPath(p.Path); reason != "" {
		return "", fault.Field("path", strconv.Quote(p.Path), reason)
	}
	if below[0] == '/' {
		return "", fault.Field("path", strconv.Quote(p.Path), "is not below "+t.root)
	}
	const bits = unix.S_IFMT | 0o7777
	field, value, reason := "", int64(0), ""
	switch kind := p.DirMode & unix.S_IFMT; {
	case p.Mode == 0:
		field, reason = "file_mode", "is missing"
	case p.Mode&^bits != 0:
		field, value, reason = "file_mode", int64(p.Mode), "is not a file's mode"
	case p.DirMode&^bits != 0, kind != 0 && kind != unix.S_IFDIR:
		field, value, reason = "dir_mode", int64(p.DirMode), "is not a directory's mode"
	case p.UID < 0:
		field, value, reason = "uid", int64(p.UID), "is not a user"
	case p.GID < 0:
		field, value, reason = "gid", int64(p.GID), "is not a group"
	case p.Offset < 0:
		field, value, reason = "offset", p.Offset, "is negative"
	case p.Size < 0 || p.Size > MaxSize:
		field, value, reason = "file_size", p.Size, "is not between 0 and 1 TiB"
	default:
		field, value, reason = checkData(p)
	}
	if field != "" {
		return "", invalid(field, value, reason)
	}
	if p.DirMode &= 0o7777; p.DirMode == 0 {
		p.DirMode = 0o750
	}
	return below, nil
}

// checkPath returns what is wrong with a path.
func checkPath(name string) string {
	switch {
	case name == "":
		return "is missing"
	case len(name) >= unix.PathMax:
		return "is too long"
	case name[0] != '/':
		return "is not absolute"
	case strings.IndexByte(name, 0) >= 0:
		return "holds a zero byte"
	case strings.Contains(name+"/", "/../"):
		return "leads upwards"
	}
	length := 0
	for _, c := range []byte(name) {
		if length++; c == '/' {
			length = 0
		}
		if length > 255 { // NAME_MAX
			return "has a part of more than 255 bytes"
		}
	}
	return ""
}

// checkData finds out whether data fits what it is for.
func checkData(p *Piece) (field string, value int64, reason string) {
	data := int64(len(p.Data))
	switch p.Mode & unix.S_IFMT {
	case 0, unix.S_IFREG:
		switch {
		case p.Offset > p.Size:
			return "offset", p.Offset, "is beyond file_size"
		case data > p.Size-p.Offset:
			return "data", data, "bytes long is more than file_size and offset leave"
		case data == 0 && p.Size > 0:
			return "data", data, "bytes long adds nothing"
		}
		return "", 0, ""
	case unix.S_IFDIR:
		if data != 0 {
			return "data", data, "bytes long is for files and symbolic links only"
		}
	case unix.S_IFLNK:
		if data == 0 || data >= unix.PathMax || bytes.IndexByte(p.Data, 0) >= 0 {
			return "data", data, "bytes long is not the target of a symbolic link"
		}
	default:
		return "file_mode", int64(p.Mode), "is not that of a file, directory or symbolic link"
	}
	if p.Offset != 0 {
		return "offset", p.Offset, "is for files only"
	}
	return "", 0, ""
}

func (t *Tree) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}
