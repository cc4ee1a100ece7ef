package sharedfile

import (
	"context"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// identity is what the pieces of one file have in common.
type identity struct {
	owner         context.Context
	below         string
	size          int64
	mode, dirMode uint32
	uid, gid      int32
}

// upload is a file that comes in pieces.
type upload struct {
	id   identity
	turn chan struct{} // capacity 1: whoever works on it holds it

	// The fields below belong to the holder of turn.
	draft  *draft // nil before the first piece
	have   int64
	gone   bool        // unknown to the tree
	unhook func() bool // stops waiting for the owner's end

	touched time.Time // of the last piece, guarded by the tree's mu
}

// file takes a piece of a regular file.
func (t *Tree) file(ctx, owner context.Context, below string, p *Piece) error {
	if p.Offset == 0 && int64(len(p.Data)) == p.Size {
		return t.whole(below, p) // nothing has to be remembered
	}
	id := identity{owner, below, p.Size, p.Mode &^ unix.S_IFMT, p.DirMode, p.UID, p.GID}
	for ctx.Err() == nil {
		u, err := t.find(id, p.Offset)
		if err != nil {
			return err
		}
		select {
		case u.turn <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		gone := u.gone // finished or given up while this waited
		if !gone {
			err = t.add(u, p)
		}
		<-u.turn
		if !gone {
			return err
		}
	}
	return context.Cause(ctx)
}

// whole makes a file of one piece.
func (t *Tree) whole(below string, p *Piece) error {
	d, err := t.newDraft(below, p)
	if err != nil {
		return err
	}
	defer d.discard()
	if err := d.write(p.Data, 0); err != nil {
		return err
	}
	return d.finish(p)
}

// find returns the upload that a piece at offset belongs to, a new one for the
// first piece.
func (t *Tree) find(id identity, offset int64) (*upload, error) {
	u, evicted, err := t.enter(id, offset)
	if evicted != nil {
		evicted.end()
		<-evicted.turn
	}
	return u, err
}

// enter is find. If it makes a place free for the new upload, the one that it
// takes it from is returned too: its turn is the caller's, who ends it.
func (t *Tree) enter(id identity, offset int64) (u, evicted *upload, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	for _, u := range t.unfinished {
		if u.id == id {
			return u, nil, nil
		}
	}
	if offset != 0 {
		return nil, nil, invalid("offset", offset, "is not where a file begins, and no copy of this one is under way")
	}
	if len(t.unfinished) >= MaxUnfinished {
		if evicted = t.evict(); evicted == nil {
			return nil, nil, fmt.Errorf("%w: %d files are unfinished", ErrLimit, MaxUnfinished)
		}
	}
	u = &upload{id: id, turn: make(chan struct{}, 1), touched: time.Now()}
	u.unhook = context.AfterFunc(id.owner, func() { t.abandon(u) })
	t.unfinished = append(t.unfinished, u)
	return u, evicted, nil
}

// evict makes that upload unknown which nobody has added to for the longest time,
// if that is long enough, and returns it with its turn held. The caller holds mu.
func (t *Tree) evict() *upload {
	var oldest *upload
	for _, u := range t.unfinished {
		if oldest == nil || u.touched.Before(oldest.touched) {
			oldest = u
		}
	}
	if oldest == nil || time.Since(oldest.touched) < t.patience {
		return nil
	}
	select {
	case oldest.turn <- struct{}{}:
		t.remove(oldest)
		return oldest
	default:
		return nil // somebody is at it after all
	}
}

// abandon gives u up unless it has ended.
func (t *Tree) abandon(u *upload) {
	u.turn <- struct{}{}
	defer func() { <-u.turn }()
	t.forget(u)
}

// forget ends u and makes it unknown. The caller holds its turn.
func (t *Tree) forget(u *upload) {
	if u.gone {
		return
	}
	t.mu.Lock()
	t.remove(u)
	t.mu.Unlock()
	u.end()
}

// remove makes u unknown. The caller holds mu.
func (t *Tree) remove(u *upload) {
	for i, other := range t.unfinished {
		if other == u {
			last := len(t.unfinished) - 1
			t.unfinished[i] = t.unfinished[last]
			t.unfinished[last] = nil
			t.unfinished = t.unfinished[:last]
			return
		}
	}
}

// end releases what u holds. The caller holds its turn.
func (u *upload) end() {
	u.gone = true
	u.unhook()
	if u.draft != nil {
		u.draft.discard()
		u.draft = nil
	}
}

// add adds a piece to u, whose turn the caller holds, and finishes the file if it
// was the last. A piece that does not fit changes nothing; if anything else
// fails the file is given up.
func (t *Tree) add(u *upload, p *Piece) error {
	if u.draft == nil && p.Offset == 0 {
		var err error
		if u.draft, err = t.newDraft(u.id.below, p); err != nil {
			t.forget(u)
			return err
		}
	}
	data, refused, err := t.fit(u, p)
	if refused != nil {
		return refused
	}
	if err == nil {
		err = u.draft.write(data, u.have)
	}
	u.have += int64(len(data))
	if err == nil && u.have < p.Size {
		t.mu.Lock()
		defer t.mu.Unlock()
		u.touched = time.Now()
		return nil
	}
	if err == nil {
		err = u.draft.finish(p)
	}
	t.forget(u)
	return err
}

// fit returns what a piece adds to u, or why it does not fit.
func (t *Tree) fit(u *upload, p *Piece) (data []byte, refused, err error) {
	if p.Offset > u.have {
		return nil, invalid("offset", p.Offset, "leaves a hole: "+strconv.FormatInt(u.have, 10)+" bytes have come"), nil
	}
	repeated := min(u.have-p.Offset, int64(len(p.Data)))
	same, err := u.draft.holds(p.Data[:repeated], p.Offset)
	switch {
	case err != nil:
		return nil, nil, err
	case same:
		return p.Data[repeated:], nil, nil
	case p.Offset != 0:
		return nil, invalid("offset", p.Offset, "is in what has come already, "+strconv.FormatInt(u.have, 10)+" bytes, and data differs"), nil
	case !t.isIdle(u):
		return nil, fmt.Errorf("%w: another copy of it is going on, or was less than %v ago", ErrConflict, t.patience), nil
	}
	u.have = 0 // what began it will not go on
	return p.Data, nil, os.NewSyscallError("ftruncate", u.draft.fd.Use(func(fd int) error { return unix.Ftruncate(fd, 0) }))
}

func (t *Tree) isIdle(u *upload) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(u.touched) >= t.patience
}

// Close gives up everything unfinished and takes nothing any more.
func (t *Tree) Close() {
	t.mu.Lock()
	t.closed = true
	all := append([]*upload(nil), t.unfinished...)
	t.mu.Unlock()
	for _, u := range all {
		t.abandon(u)
	}
}
