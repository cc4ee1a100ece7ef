// Package initrd writes the guest's initrd: an uncompressed cpio archive of
// the newc format, in which the kernel looks for /init.
//
// Equal contents give equal bytes: entries are sorted, times are zero, the
// owner is root, inodes are numbered from 1. The format is described in the
// kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//
// The package does not compress (unpacking costs more boot time than reading),
// does not read archives, and knows nothing of what /init does.
package initrd

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// magic begins every entry of an archive.
	magic = "070701"
	// blockSize is what an archive's size is a multiple of.
	blockSize = 512
)

// Entry is one file of the archive.
type Entry struct {
	// Path is slash-separated, without a leading slash, clean.
	Path string
	// Mode is the file's type and permissions as stat(2) has them; see Dir,
	// File, Link and Device.
	Mode uint32
	// Data is a regular file's contents or a symbolic link's target.
	Data []byte
	// Major and Minor identify a device.
	Major, Minor uint32
}

// Dir returns an entry for a directory.
func Dir(path string, perm uint32) Entry {
	return Entry{Path: path, Mode: unix.S_IFDIR | perm}
}

// File returns an entry for a regular file.
func File(path string, perm uint32, data []byte) Entry {
	return Entry{Path: path, Mode: unix.S_IFREG | perm, Data: data}
}

// Link returns an entry for a symbolic link.
func Link(path, target string) Entry {
	return Entry{Path: path, Mode: unix.S_IFLNK | 0o777, Data: []byte(target)}
}

// CharDevice returns an entry for a character device.
func CharDevice(path string, perm, major, minor uint32) Entry {
	return Entry{Path: path, Mode: unix.S_IFCHR | perm, Major: major, Minor: minor}
}

// Write writes an archive of the entries to w. Missing parent directories are
// an error, as is a path that occurs twice; the order of the entries does not
// matter.
func Write(w io.Writer, entries []Entry) error {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int {
		return cmp.Compare(a.Path, b.Path)
	})
	if err := check(sorted); err != nil {
		return err
	}
	archive := &archive{w: bufio.NewWriterSize(w, 1<<16)}
	for i, e := range sorted {
		archive.add(uint32(i+1), e)
	}
	archive.add(0, Entry{Path: "TRAILER!!!"})
	archive.pad(blockSize)
	if archive.err != nil {
		return archive.err
	}
	return archive.w.Flush()
}

// check refuses what the kernel's unpacker would drop without a word.
func check(sorted []Entry) error {
	dirs := map[string]bool{".": true}
	for i, e := range sorted {
		if e.Path == "" || e.Path == "." || e.Path[0] == '/' || path.Clean(e.Path) != e.Path || strings.HasPrefix(e.Path, "../") || strings.ContainsRune(e.Path, 0) {
			return fmt.Errorf("archive entry %q: not a clean relative path", e.Path)
		}
		if i > 0 && sorted[i-1].Path == e.Path {
			return fmt.Errorf("archive entry %s: given twice", e.Path)
		}
		if !dirs[path.Dir(e.Path)] {
			return fmt.Errorf("archive entry %s: its directory is not in the archive", e.Path)
		}
		if len(e.Data) > math.MaxUint32 {
			return fmt.Errorf("archive entry %s: larger than 4 GiB", e.Path)
		}
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs[e.Path] = true
		case unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR:
		default:
			return fmt.Errorf("archive entry %s: mode %#o is of no known type", e.Path, e.Mode)
		}
	}
	if len(sorted) == 0 {
		return errors.New("archive without entries")
	}
	return nil
}

// archive keeps the first error and the count of bytes, for alignment.
type archive struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (a *archive) add(inode uint32, e Entry) {
	links := uint32(1)
	if e.Mode&unix.S_IFMT == unix.S_IFDIR {
		links = 2
	}
	a.write(magic)
	for _, field := range []uint32{
		inode, e.Mode, 0, 0, links, 0, uint32(len(e.Data)),
		0, 0, e.Major, e.Minor, uint32(len(e.Path) + 1), 0,
	} {
		a.write(fmt.Sprintf("%08x", field))
	}
	a.write(e.Path + "\x00")
	a.pad(4)
	if a.err == nil {
		var n int
		n, a.err = a.w.Write(e.Data)
		a.n += int64(n)
	}
	a.pad(4)
}

func (a *archive) write(s string) {
	if a.err == nil {
		var n int
		n, a.err = a.w.WriteString(s)
		a.n += int64(n)
	}
}

func (a *archive) pad(to int64) {
	for a.err == nil && a.n%to != 0 {
		a.write("\x00")
	}
}
