package sharedfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// newTree returns a tree in a directory of the test, where nothing may be left of
// files that did not come to be, nor descriptors of them.
func newTree(t *testing.T) (tree *Tree, root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "shared/containers")
	tree = New(root)
	before := descriptors(t)
	t.Cleanup(func() {
		tree.Close()
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors are open, %d were before", after, before)
		}
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if strings.Contains(path, ".copy-") {
				t.Errorf("left: %s", path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	return tree, root
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// put puts a piece that comes on a connection which lasts as long as the test.
func put(t *testing.T, tree *Tree, p Piece) error {
	t.Helper()
	return tree.Put(t.Context(), context.Background(), p)
}

func mustPut(t *testing.T, tree *Tree, p Piece) {
	t.Helper()
	if err := put(t, tree, p); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func wantMissing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", path, err)
	}
}

func wantStat(t *testing.T, path string, mode, uid, gid uint32) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Mode != mode || stat.Uid != uid || stat.Gid != gid {
		t.Errorf("%s: mode %o, owner %d:%d, want %o, %d:%d", path, stat.Mode, stat.Uid, stat.Gid, mode, uid, gid)
	}
}

func TestAFileHasTheContentModeAndOwnerAsked(t *testing.T) {
	tree, root := newTree(t)
	name := filepath.Join(root, "pod/etc/hosts")
	mustPut(t, tree, Piece{Path: name, Size: 5, Mode: unix.S_IFREG | 0o4751, DirMode: 0o2711, UID: 1001, GID: 1002, Data: []byte("hosts")})
	wantContent(t, name, "hosts")
	wantStat(t, name, unix.S_IFREG|0o4751, 1001, 1002)
	for _, dir := range []string{"pod", "pod/etc"} {
		wantStat(t, filepath.Join(root, dir), unix.S_IFDIR|0o2711, 1001, 1002)
	}

	// Directories that are there keep what they have; without a type the mode is
	// a file's.
	mustPut(t, tree, Piece{Path: name + "2", Mode: 0o600, DirMode: unix.S_IFDIR | 0o700})
	wantContent(t, name+"2", "")
	wantStat(t, name+"2", unix.S_IFREG|0o600, 0, 0)
	wantStat(t, filepath.Dir(name), unix.S_IFDIR|0o2711, 1001, 1002)

	mustPut(t, tree, Piece{Path: root + "//new/./x/", Mode: 0o600})
	wantStat(t, root+"/new", unix.S_IFDIR|0o750, 0, 0)
	wantStat(t, root+"/new/x", unix.S_IFREG|0o600, 0, 0)
}

func TestAFileAppearsWithItsLastPiece(t *testing.T) {
	tree, root := newTree(t)
	name := root + "/file"
	mustPut(t, tree, Piece{Path: name, Size: 3, Mode: 0o644, Data: []byte("old")})
	old, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for i, data := range []string{"one,", "two,", "three"} {
		wantContent(t, name, "old")
		mustPut(t, tree, Piece{Path: name, Size: 13, Mode: 0o600, Offset: int64(4 * i), Data: []byte(data)})
	}
	wantContent(t, name, "one,two,three")
	wantStat(t, name, unix.S_IFREG|0o600, 0, 0)
	buf := make([]byte, 16)
	if n, _ := old.Read(buf); string(buf[:n]) != "old" {
		t.Errorf("who reads the old file gets %q", buf[:n])
	}
}

func TestFilesWithTheSameStemDoNotMix(t *testing.T) {
	tree, root := newTree(t)
	names := []string{"a.x", "a.y", "a", "a.tmp", ".a", "a.x.tmp"}
	for offset := range 4 {
		for _, name := range names {
			data := fmt.Sprintf("%-8s", name)[2*offset : 2*offset+2]
			mustPut(t, tree, Piece{Path: filepath.Join(root, name), Size: 8, Mode: 0o644, Offset: int64(2 * offset), Data: []byte(data)})
		}
	}
	for _, name := range names {
		wantContent(t, filepath.Join(root, name), fmt.Sprintf("%-8s", name))
	}
}

func TestCopiesOnTwoConnectionsDoNotMix(t *testing.T) {
	tree, root := newTree(t)
	one, cancelOne := context.WithCancel(t.Context())
	two, cancelTwo := context.WithCancel(t.Context())
	defer cancelOne()
	defer cancelTwo()
	piece := func(owner context.Context, data string, offset int64) {
		t.Helper()
		if err := tree.Put(t.Context(), owner, Piece{Path: root + "/f", Size: 6, Mode: 0o644, Offset: offset, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	piece(one, "aaa", 0)
	piece(two, "bbb", 0)
	piece(one, "AAA", 3)
	wantContent(t, root+"/f", "aaaAAA")
	piece(two, "BBB", 3)
	wantContent(t, root+"/f", "bbbBBB")
}

func TestCopiesOnOneConnectionDoNotMix(t *testing.T) {
	tree, root := newTree(t)
	piece := func(data string, offset int64) error {
		return put(t, tree, Piece{Path: root + "/f", Size: 6, Mode: 0o644, Offset: offset, Data: []byte(data)})
	}
	for _, data := range []string{"abc", "abc", "ab"} { // repeated, as after an answer that was lost
		if err := piece(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := piece("xyz", 0); !errors.Is(err, ErrConflict) {
		t.Errorf("another copy: %v", err)
	}
	var senseless *InvalidError
	if err := piece("xy", 1); !errors.As(err, &senseless) || senseless.Field != "offset" {
		t.Errorf("another piece: %v", err)
	}
	if err := piece("cdef", 2); err != nil { // begins with what is there
		t.Fatal(err)
	}
	wantContent(t, root+"/f", "abcdef")

	// One whole copy does not ask anybody.
	if err := piece("abc", 0); err != nil {
		t.Fatal(err)
	}
	if err := piece("uvwxyz", 0); err != nil {
		t.Fatal(err)
	}
	if err := piece("def", 3); err != nil {
		t.Fatal(err)
	}
	wantContent(t, root+"/f", "abcdef")
}

func TestAnIdleCopyMakesRoomForAnother(t *testing.T) {
	tree, root := newTree(t)
	tree.patience = 0
	for _, p := range []struct {
		data   string
		offset int64
	}{{"abcd", 0}, {"xy", 0}, {"zzzz", 2}} {
		mustPut(t, tree, Piece{Path: root + "/f", Size: 6, Mode: 0o644, Offset: p.offset, Data: []byte(p.data)})
	}
	wantContent(t, root+"/f", "xyzzzz")
}

func TestConcurrentCopiesOfOneFileLeaveOneOfThem(t *testing.T) {
	tree, root := newTree(t)
	const size, pieces = 1 << 16, 8
	for _, shared := range []bool{false, true} {
		var group sync.WaitGroup
		for i := range 8 {
			owner, cancel := context.WithCancel(t.Context())
			defer cancel()
			if shared {
				owner = context.Background()
			}
			content := bytes.Repeat([]byte{byte('a' + i)}, size)
			group.Go(func() {
				for at := 0; at < size; at += size / pieces {
					err := tree.Put(t.Context(), owner, Piece{Path: root + "/f", Size: size, Mode: 0o644, Offset: int64(at), Data: content[at : at+size/pieces]})
					if err != nil {
						if !shared {
							t.Error(err)
						}
						return // as a client does
					}
				}
			})
		}
		group.Wait()
		got, err := os.ReadFile(root + "/f")
		if err != nil || len(got) != size || len(bytes.Trim(got, string(got[:1]))) != 0 {
			t.Errorf("the file has %d bytes, %v, and they are of several copies", len(got), err)
		}
	}
}

func TestDirectories(t *testing.T) {
	tree, root := newTree(t)
	dir := Piece{Path: root + "/pod/dir", Mode: unix.S_IFDIR | 0o1770, DirMode: 0o711, UID: 7, GID: 8, Size: 4096}
	mustPut(t, tree, dir)
	wantStat(t, dir.Path, unix.S_IFDIR|0o1770, 7, 8)
	wantStat(t, root+"/pod", unix.S_IFDIR|0o711, 7, 8)
	mustPut(t, tree, Piece{Path: dir.Path + "/f", Mode: 0o600})

	// Again, otherwise: what is in it stays.
	dir.Mode, dir.UID = unix.S_IFDIR|0o700, 9
	mustPut(t, tree, dir)
	wantStat(t, dir.Path, unix.S_IFDIR|0o700, 9, 8)
	wantStat(t, dir.Path+"/f", unix.S_IFREG|0o600, 0, 0)

	// It replaces a file, and a link, whose target stays as it is.
	for _, name := range []string{"/pod/dir/f", "/pod/link"} {
		if name == "/pod/link" {
			if err := os.Symlink("dir", root+name); err != nil {
				t.Fatal(err)
			}
		}
		mustPut(t, tree, Piece{Path: root + name, Mode: unix.S_IFDIR | 0o755})
		wantStat(t, root+name, unix.S_IFDIR|0o755, 0, 0)
	}
	wantStat(t, dir.Path, unix.S_IFDIR|0o700, 9, 8)
	// Nothing else replaces it.
	for _, p := range []Piece{
		{Path: dir.Path, Mode: 0o644},
		{Path: dir.Path, Mode: unix.S_IFLNK | 0o777, Data: []byte("x")},
	} {
		if err := put(t, tree, p); !errors.Is(err, ErrConflict) {
			t.Errorf("mode %o on a directory: %v", p.Mode, err)
		}
	}
}

func TestSymbolicLinks(t *testing.T) {
	tree, root := newTree(t)
	link := Piece{Path: root + "/pod/..data", Mode: unix.S_IFLNK | 0o777, DirMode: 0o755, UID: 5, GID: 6, Data: []byte("..2024_01")}
	for _, target := range []string{"..2024_01", "..2024_02", "/etc/passwd", "../../../.."} {
		link.Data = []byte(target)
		mustPut(t, tree, link)
		if got, err := os.Readlink(link.Path); err != nil || got != target {
			t.Errorf("it leads to %q, %v, want %q", got, err, target)
		}
	}
	wantStat(t, link.Path, unix.S_IFLNK|0o777, 5, 6)
	// A file replaces the link, not what it leads to.
	mustPut(t, tree, Piece{Path: link.Path, Size: 1, Mode: 0o600, Data: []byte("x")})
	wantStat(t, link.Path, unix.S_IFREG|0o600, 0, 0)
}

func TestNoLinkOnTheWayIsFollowed(t *testing.T) {
	tree, root := newTree(t)
	outside := t.TempDir()
	mustPut(t, tree, Piece{Path: root + "/pod/file", Mode: 0o600})
	for name, target := range map[string]string{
		"absolute": outside, "relative": "../../..", "inside": "pod", "loop": "loop", "dangling": "nowhere", "magic": "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK} {
			for _, below := range []string{"x", "deep/x"} {
				p := Piece{Path: filepath.Join(root, name, below), Mode: mode | 0o644}
				if mode == unix.S_IFLNK {
					p.Data = []byte("x")
				}
				if err := put(t, tree, p); !errors.Is(err, ErrConflict) {
					t.Errorf("%s, mode %o: %v", p.Path, mode, err)
				}
			}
		}
	}
	if err := put(t, tree, Piece{Path: root + "/pod/file/x", Mode: 0o600}); !errors.Is(err, ErrConflict) {
		t.Errorf("below a file: %v", err)
	}
	wantMissing(t, root+"/nowhere")
	for _, dir := range []string{outside, root + "/pod"} {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "file" {
			t.Errorf("%s has %v, %v", dir, entries, err)
		}
	}
}

func TestSenselessPiecesAreNamedAndChangeNothing(t *testing.T) {
	tree, root := newTree(t)
	file := func(change func(*Piece)) Piece {
		p := Piece{Path: root + "/a/f", Size: 10, Mode: unix.S_IFREG | 0o644, Data: []byte("hello")}
		change(&p)
		return p
	}
	dir := func(p *Piece) { p.Mode, p.Size, p.Data = unix.S_IFDIR|0o755, 0, nil }
	for _, tt := range []struct {
		name  string
		piece Piece
		field string
	}{
		{"nothing", Piece{}, "path"},
		{"no path", file(func(p *Piece) { p.Path = "" }), "path"},
		{"relative path", file(func(p *Piece) { p.Path = "a" }), "path"},
		{"path elsewhere", file(func(p *Piece) { p.Path = "/etc/passwd" }), "path"},
		{"path beside the root", file(func(p *Piece) { p.Path = root + "2/f" }), "path"},
		{"path upwards", file(func(p *Piece) { p.Path = root + "/../f" }), "path"},
		{"path up and down", file(func(p *Piece) { p.Path = root + "/a/../f" }), "path"},
		{"the root", file(func(p *Piece) { p.Path = root + "/" }), "path"},
		{"path with a zero byte", file(func(p *Piece) { p.Path += "\x00" }), "path"},
		{"long path", file(func(p *Piece) { p.Path = root + strings.Repeat("/a", 2048) }), "path"},
		{"long name", file(func(p *Piece) { p.Path = root + "/" + strings.Repeat("a", 256) }), "path"},
		{"no mode", file(func(p *Piece) { p.Mode = 0 }), "file_mode"},
		{"absurd mode", file(func(p *Piece) { p.Mode = 1 << 20 }), "file_mode"},
		{"device", file(func(p *Piece) { p.Mode = unix.S_IFBLK | 0o600 }), "file_mode"},
		{"socket", file(func(p *Piece) { p.Mode = unix.S_IFSOCK | 0o600 }), "file_mode"},
		{"absurd mode of directories", file(func(p *Piece) { p.DirMode = 1 << 31 }), "dir_mode"},
		{"mode of directories is a file's", file(func(p *Piece) { p.DirMode = unix.S_IFREG | 0o755 }), "dir_mode"},
		{"negative user", file(func(p *Piece) { p.UID = -1 }), "uid"},
		{"negative group", file(func(p *Piece) { p.GID = -2 }), "gid"},
		{"negative offset", file(func(p *Piece) { p.Offset = -1 }), "offset"},
		{"offset beyond the end", file(func(p *Piece) { p.Offset = 11 }), "offset"},
		{"absurd offset", file(func(p *Piece) { p.Offset = 1<<63 - 1 }), "offset"},
		{"an end without a beginning", file(func(p *Piece) { p.Offset = 5 }), "offset"},
		{"negative size", file(func(p *Piece) { p.Size = -1 }), "file_size"},
		{"absurd size", file(func(p *Piece) { p.Size = 1<<63 - 1 }), "file_size"},
		{"more data than size", file(func(p *Piece) { p.Size = 4 }), "data"},
		{"data beyond the end", file(func(p *Piece) { p.Offset = 6 }), "data"},
		{"no data", file(func(p *Piece) { p.Data = nil }), "data"},
		{"data for a directory", file(func(p *Piece) { p.Mode = unix.S_IFDIR | 0o755 }), "data"},
		{"offset in a directory", file(func(p *Piece) { dir(p); p.Offset = 1 }), "offset"},
		{"link to nowhere", file(func(p *Piece) { p.Mode, p.Data = unix.S_IFLNK, nil }), "data"},
		{"link with a zero byte", file(func(p *Piece) { p.Mode, p.Data = unix.S_IFLNK, []byte("a\x00b") }), "data"},
		{"long link", file(func(p *Piece) { p.Mode, p.Data = unix.S_IFLNK, make([]byte, unix.PathMax) }), "data"},
	} {
		var senseless *InvalidError
		if err := put(t, tree, tt.piece); !errors.As(err, &senseless) || senseless.Field != tt.field {
			t.Errorf("%s: %v, want field %s", tt.name, err, tt.field)
		}
	}
	wantMissing(t, root)
}

func TestAHoleIsRefusedAndTheCopyGoesOn(t *testing.T) {
	tree, root := newTree(t)
	p := Piece{Path: root + "/f", Size: 9, Mode: 0o644, Data: []byte("abc")}
	mustPut(t, tree, p)
	p.Offset, p.Data = 6, []byte("ghi")
	var senseless *InvalidError
	if err := put(t, tree, p); !errors.As(err, &senseless) || senseless.Field != "offset" {
		t.Errorf("a hole: %v", err)
	}
	p.Offset, p.Data = 3, []byte("defghi")
	mustPut(t, tree, p)
	wantContent(t, p.Path, "abcdefghi")
}
