// Package sharetest is the guest's side of the tests of package share: file
// operations that a test on the host asks for, one JSON line each, over a
// vsock connection that the guest makes. It is no part of the product.
//
// Life cycle: init/main.go is PID 1 of a test guest and calls [Serve] with a
// connection to [Port] of the host; it serves until the connection ends.
package sharetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Port is where the host's test listens.
const Port = 5000

// Request is one operation; which fields count depends on Op.
type Request struct {
	Op    string
	Path  string
	Other string // second path, or name of an attribute
	Data  []byte
	N     int
}

// Reply is its result. Errno is 0 for success.
type Reply struct {
	Data  []byte
	Names []string
	Stat  Stat
	N     int64
	Err   string
	Errno syscall.Errno
}

// Stat is what tests look at of a stat or statfs.
type Stat struct {
	Dev, Ino, Nlink, Rdev uint64
	Mode, UID, GID        uint32
	Size                  int64
	Blocks, Type          uint64 // of the file system
}

// Serve answers requests until the stream ends.
func Serve(stream io.ReadWriter) error {
	g := &guest{open: map[string]*os.File{}}
	in, out := json.NewDecoder(stream), json.NewEncoder(stream)
	for {
		var request Request
		if err := in.Decode(&request); err != nil {
			return err
		}
		var reply Reply
		if err := g.do(&request, &reply); err != nil {
			reply.Err = err.Error()
			if !errors.As(err, &reply.Errno) {
				reply.Errno = syscall.EIO
			}
		}
		if err := out.Encode(&reply); err != nil {
			return err
		}
	}
}

type guest struct {
	open map[string]*os.File
}

func (g *guest) do(q *Request, r *Reply) (err error) {
	switch q.Op {
	case "mount":
		if err := os.MkdirAll(q.Path, 0o755); err != nil {
			return err
		}
		return syscall.Mount(q.Other, q.Path, "virtiofs", 0, "")
	case "drop": // the names that nobody uses, as a reconfiguration does
		return syscall.Mount("", q.Path, "", syscall.MS_REMOUNT, "")
	case "read":
		r.Data, err = os.ReadFile(q.Path)
		return err
	case "write":
		return os.WriteFile(q.Path, q.Data, os.FileMode(q.N))
	case "list":
		entries, err := os.ReadDir(q.Path)
		for _, entry := range entries {
			r.Names = append(r.Names, entry.Name())
		}
		return err
	case "walk":
		return walk(q.Path, r)
	case "stat", "statfs":
		return stat(q, r)
	case "mmap":
		return mapShared(q)
	case "open", "fdread", "fdwrite", "close":
		return g.descriptor(q, r)
	}
	return change(q, r)
}

// change is the operations that are one system call.
func change(q *Request, r *Reply) (err error) {
	switch q.Op {
	case "mkdir":
		return os.Mkdir(q.Path, 0o755)
	case "link":
		return os.Link(q.Path, q.Other)
	case "symlink":
		return os.Symlink(q.Path, q.Other)
	case "readlink":
		target, err := os.Readlink(q.Path)
		r.Data = []byte(target)
		return err
	case "rename":
		return os.Rename(q.Path, q.Other)
	case "remove":
		return os.RemoveAll(q.Path)
	case "unlink":
		return os.Remove(q.Path)
	case "chmod":
		return syscall.Chmod(q.Path, uint32(q.N))
	case "chown":
		return os.Lchown(q.Path, q.N, q.N)
	case "truncate":
		return os.Truncate(q.Path, int64(q.N))
	case "mknod":
		return syscall.Mknod(q.Path, uint32(q.N), 1<<8|3)
	case "setxattr":
		return syscall.Setxattr(q.Path, q.Other, q.Data, 0)
	case "getxattr":
		r.Data = make([]byte, 4096)
		n, err := syscall.Getxattr(q.Path, q.Other, r.Data)
		r.Data = r.Data[:max(n, 0)]
		return err
	}
	return fmt.Errorf("unknown operation %q", q.Op)
}

func (g *guest) descriptor(q *Request, r *Reply) (err error) {
	switch q.Op {
	case "open":
		g.open[q.Path], err = os.OpenFile(q.Path, q.N, 0o644)
		return err
	case "fdread":
		r.Data = make([]byte, q.N)
		n, err := g.open[q.Path].ReadAt(r.Data, 0)
		r.Data = r.Data[:n]
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	case "fdwrite":
		_, err := g.open[q.Path].Write(q.Data)
		return err
	}
	return g.open[q.Path].Close()
}

// walk lists everything below a directory as "dev:ino path".
func walk(root string, r *Reply) error {
	return filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		r.Names = append(r.Names, fmt.Sprintf("%d:%d %s", st.Dev, st.Ino, strings.TrimPrefix(path, root)))
		return nil
	})
}

func stat(q *Request, r *Reply) error {
	if q.Op == "statfs" {
		var st syscall.Statfs_t
		err := syscall.Statfs(q.Path, &st)
		r.Stat = Stat{Blocks: st.Blocks * uint64(st.Bsize), Type: uint64(st.Type)}
		return err
	}
	var st syscall.Stat_t
	err := syscall.Lstat(q.Path, &st)
	r.Stat = Stat{
		Dev: st.Dev, Ino: st.Ino, Nlink: st.Nlink, Rdev: st.Rdev,
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size,
	}
	return err
}

// mapShared writes Data at the beginning of a file through a shared mapping.
func mapShared(q *Request) error {
	file, err := os.OpenFile(q.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	memory, err := syscall.Mmap(int(file.Fd()), 0, len(q.Data), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(memory, q.Data)
	if err := syscall.Munmap(memory); err != nil {
		return err
	}
	return file.Sync()
}
