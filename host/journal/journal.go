package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Journal is an open journal, whose folder this process holds. Its methods may be
// called concurrently.
type Journal struct {
	dir  string
	lock *os.File // the folder, with flock(2)

	mu sync.Mutex // guards what follows; held across writes to a tmpfs only
	contents
	file *os.File
}

// Dir returns the folder, where sockets and other files of the sandbox may lie.
func (j *Journal) Dir() string { return j.dir }

// Header returns whose journal it is.
func (j *Journal) Header() Header { return j.header }

// Records returns what is held, oldest first.
func (j *Journal) Records() []Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.records)
}

// Add writes the entry down. The resource may be acquired when it has returned
// without an error.
func (j *Journal) Add(e Entry, mark Mark) (Seq, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	seq := j.last + 1
	if err := j.set(Record{seq, mark, e}); err != nil {
		return 0, fmt.Errorf("write %s into the journal: %w", e, err)
	}
	j.last = seq
	return seq, nil
}

// Amend replaces an entry by one that says more of the same resource, as the
// identity of a process that has been started.
func (j *Journal) Amend(seq Seq, e Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	old, ok := j.find(seq)
	if !ok {
		return fmt.Errorf("amend the journal by %s: it has no entry %d", e, seq)
	}
	if err := j.set(Record{seq, old.Mark, e}); err != nil {
		return fmt.Errorf("write %s into the journal: %w", e, err)
	}
	return nil
}

// Release gives the entry's resource back and forgets the entry. If that fails
// the entry stays. One that is not there any more is no error.
func (j *Journal) Release(ctx context.Context, seq Seq) error {
	j.mu.Lock()
	r, ok := j.find(seq)
	j.mu.Unlock()
	if !ok {
		return nil
	}
	if err := r.Entry.release(ctx); err != nil {
		return fmt.Errorf("release %s: %w", r.Entry, err)
	}
	return j.Forget(seq)
}

// Forget takes out an entry whose resource somebody has given back, or that was
// not acquired.
func (j *Journal) Forget(seq Seq) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.find(seq); !ok {
		return nil
	}
	text, err := json.Marshal(line{Seq: seq})
	if err == nil {
		err = j.append(text)
	}
	if err != nil {
		return fmt.Errorf("forget an entry of the journal: %w", err)
	}
	j.records = without(j.records, seq)
	_ = j.compact() // for want of room, say: the file is right as it is
	return nil
}

// ReleaseAll releases all entries in the order that the package comment gives,
// going on after errors, and returns what could not be released.
func (j *Journal) ReleaseAll(ctx context.Context) error {
	var errs []error
	guest := false
	records := j.Records()
	slices.Reverse(records)
	for _, r := range records {
		p, ok := r.Entry.(Process)
		if !ok {
			continue
		}
		if err := j.Release(ctx, r.Seq); err != nil {
			errs = append(errs, err)
			guest = guest || p.RunsGuest
		}
	}
	for _, r := range records {
		_, done := r.Entry.(Process)
		switch {
		case done:
		case guest && r.Mark == UsedByGuest:
			errs = append(errs, fmt.Errorf("keep %s: %w", r.Entry, ErrGuestRuns))
		default:
			if err := j.Release(ctx, r.Seq); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// ErrGuestRuns says why something that the guest uses was not released.
var ErrGuestRuns = errors.New("the guest may still use it")

// Remove removes the folder and closes the journal. It is an error while there
// are entries, and when something is mounted below the folder; the journal can be
// used on then. A second call does nothing.
func (j *Journal) Remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	if len(j.records) > 0 {
		return fmt.Errorf("remove %s: %d resources are held, as %s", j.dir, len(j.records), j.records[0].Entry)
	}
	if err := removeTree(j.dir, fileName); err != nil {
		return fmt.Errorf("remove %s: %w", j.dir, err)
	}
	return errors.Join(j.file.Close(), j.close())
}

// Close gives the folder up without releasing anything, for whoever takes it
// over.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	return errors.Join(j.file.Close(), j.close())
}

func (j *Journal) close() error {
	j.file = nil
	return j.lock.Close()
}

func (j *Journal) find(seq Seq) (Record, bool) {
	i := slices.IndexFunc(j.records, func(r Record) bool { return r.Seq == seq })
	if i < 0 {
		return Record{}, false
	}
	return j.records[i], true
}

// set writes a record and then holds it.
func (j *Journal) set(r Record) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	if err := j.append(text); err != nil {
		return err
	}
	j.records = with(j.records, r)
	return nil
}

// append writes one line. A part of it that was written before an error, as for
// want of room, is taken back: the next line must not become its end.
func (j *Journal) append(text []byte) error {
	if j.file == nil {
		return fmt.Errorf("journal of sandbox %s: %w", j.header.ID, os.ErrClosed)
	}
	n, err := j.file.WriteAt(append(text, '\n'), int64(j.size))
	if err != nil {
		return errors.Join(err, j.file.Truncate(int64(j.size)))
	}
	j.size += n
	j.lines++
	return nil
}

// slack is how many lines that mean nothing any more are kept.
const slack = 128

// compact writes the file anew when most of its lines are overtaken.
func (j *Journal) compact() error {
	if j.lines < 2*len(j.records)+slack {
		return nil
	}
	file, size, err := create(j.dir, j.header, j.records)
	if err != nil {
		return err
	}
	old := j.file
	j.file, j.size, j.lines = file, size, len(j.records)
	return old.Close()
}

// create writes a journal's file whole and puts it in place.
func create(dir string, h Header, records []Record) (_ *os.File, size int, err error) {
	var b bytes.Buffer
	first, err := json.Marshal(h)
	if err != nil {
		return nil, 0, err
	}
	b.Write(append(first, '\n'))
	for _, r := range records {
		text, err := encode(r)
		if err != nil {
			return nil, 0, err
		}
		b.Write(append(text, '\n'))
	}
	name := filepath.Join(dir, fileName)
	file, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, 0, err
	}
	_, err = file.Write(b.Bytes())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, b.Len(), nil
}
