package sharedfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"kata/lib/ownedfd"
)

func TestTheEndOfTheConnectionGivesItsCopiesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tree, root := newTree(t)
		before := descriptors(t)
		owner, cancel := context.WithCancel(t.Context())
		for i := range 3 {
			p := Piece{Path: fmt.Sprintf("%s/%d", root, i), Size: 9, Mode: 0o644, Data: []byte("abc")}
			if err := tree.Put(t.Context(), owner, p); err != nil {
				t.Fatal(err)
			}
		}
		mustPut(t, tree, Piece{Path: root + "/other", Size: 9, Mode: 0o644, Data: []byte("abc")})
		cancel()
		synctest.Wait()
		const each = 2 // the file and its directory
		if n, open := tree.count(), descriptors(t)-before; n != 1 || open != each {
			t.Errorf("%d copies with %d descriptors are left, want 1 with %d", n, open, each)
		}
		err := tree.Put(t.Context(), owner, Piece{Path: root + "/0", Size: 9, Mode: 0o644, Offset: 3, Data: []byte("abc")})
		if err == nil {
			t.Error("the copy goes on")
		}
	})
}

func (t *Tree) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.unfinished)
}

func TestUnfinishedCopiesAreBounded(t *testing.T) {
	tree, root := newTree(t)
	piece := func(i int) Piece {
		return Piece{Path: fmt.Sprintf("%s/%d", root, i), Size: 2, Mode: 0o644, Data: []byte("a")}
	}
	for i := range MaxUnfinished {
		mustPut(t, tree, piece(i))
	}
	if err := put(t, tree, piece(MaxUnfinished)); !errors.Is(err, ErrLimit) {
		t.Errorf("one too many: %v", err)
	}
	mustPut(t, tree, Piece{Path: root + "/whole", Size: 1, Mode: 0o644, Data: []byte("a")})
	last := piece(7)
	last.Offset = 1
	mustPut(t, tree, last)
	mustPut(t, tree, piece(MaxUnfinished))
	tree.patience = 0 // now all are idle
	mustPut(t, tree, piece(MaxUnfinished+1))
	if n := tree.count(); n != MaxUnfinished {
		t.Errorf("%d copies are unfinished", n)
	}
	first := piece(0) // the oldest had to go
	first.Offset = 1
	var senseless *InvalidError
	if err := put(t, tree, first); !errors.As(err, &senseless) {
		t.Errorf("the oldest: %v", err)
	}
}

func TestAFailureGivesTheCopyUp(t *testing.T) {
	tree, root := newTree(t)
	p := Piece{Path: root + "/d/f", Size: 2, Mode: 0o644, DirMode: 0o755, Data: []byte("a")}
	mustPut(t, tree, p)
	if err := os.Remove(root + "/d"); err != nil {
		t.Fatal(err)
	}
	p.Offset = 1
	if err := put(t, tree, p); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the directory is gone: %v", err)
	}
	p.Offset = 0
	mustPut(t, tree, p)
	if err := os.Mkdir(p.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	p.Offset = 1
	if err := put(t, tree, p); !errors.Is(err, ErrConflict) {
		t.Errorf("a directory has come: %v", err)
	}
	if n := tree.count(); n != 0 {
		t.Errorf("%d copies are unfinished", n)
	}
}

func TestClosedItTakesNothing(t *testing.T) {
	tree, root := newTree(t)
	mustPut(t, tree, Piece{Path: root + "/f", Size: 2, Mode: 0o644, Data: []byte("a")})
	tree.Close()
	if err := put(t, tree, Piece{Path: root + "/f", Size: 2, Mode: 0o644, Offset: 1, Data: []byte("b")}); !errors.Is(err, ErrClosed) {
		t.Errorf("Put: %v", err)
	}
	wantMissing(t, root+"/f")
}

func TestACallThatIsGivenUpEnds(t *testing.T) {
	tree, root := newTree(t)
	p := Piece{Path: root + "/f", Size: 2, Mode: 0o644, Data: []byte("a")}
	mustPut(t, tree, p)
	for _, u := range tree.unfinished {
		u.turn <- struct{}{} // somebody writes, for long
		defer func() { <-u.turn }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.Put(ctx, context.Background(), p); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
}

// TestWithoutNamelessFiles is for file systems such as virtio-fs in Linux 6.1.
func TestWithoutNamelessFiles(t *testing.T) {
	tree, root := newTree(t)
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p := Piece{Path: root + "/f", Size: 4, Mode: 0o640, Data: []byte("data")}
	at, err := tree.place("f", &p)
	if err != nil {
		t.Fatal(err)
	}
	for _, finish := range []bool{false, true} {
		dir, err := unix.Dup(at.dir())
		if err != nil {
			t.Fatal(err)
		}
		d := &draft{at: place{ownedfd.New(dir), at.name}}
		if err := d.openNamed(); err != nil {
			t.Fatal(err)
		}
		if err := d.write(p.Data, 0); err != nil {
			t.Fatal(err)
		}
		if finish {
			if err := d.finish(&p); err != nil {
				t.Fatal(err)
			}
		}
		d.discard()
	}
	at.close()
	wantContent(t, root+"/f", "data")
	wantStat(t, root+"/f", unix.S_IFREG|0o640, 0, 0)
}
