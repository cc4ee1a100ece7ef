// Package cache keeps built files by a hash of what they were built from,
// below the user's cache folder.
//
// An entry is a folder KIND/KEY with its files and a manifest of their SHA-256
// sums. It is built in a folder beside it and renamed when it is complete, so
// that an entry is there as a whole or not at all, whatever dies meanwhile; one
// builder at a time per entry, others wait. Whoever takes an entry gets it
// checked against the manifest; a damaged one counts as absent and is built
// again. Nothing is ever removed from the cache otherwise.
//
// The package does not know how anything is built.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Store is a cache folder.
type Store struct {
	dir string
}

// Entry is a complete set of files.
type Entry struct {
	Kind string // what it is: kernel, initrd
	Key  string // hash of Inputs
	Dir  string // its folder
	// Inputs say what it was built from, for people.
	Inputs map[string]string
	// Files are the names of the files in Dir and their SHA-256 sums, in hex.
	Files map[string]string
}

// Path returns the path of one of the entry's files.
func (e *Entry) Path(name string) string { return filepath.Join(e.Dir, name) }

// Made is when the entry was made, the zero time if that is unknown.
func (e *Entry) Made() time.Time {
	info, err := os.Stat(e.Dir)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// DamagedError is an entry that is not what its manifest says.
type DamagedError struct {
	Dir    string
	Reason error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("cached %s is damaged: %v", e.Dir, e.Reason)
}

// Unwrap returns the reason.
func (e *DamagedError) Unwrap() error { return e.Reason }

const manifestName = "manifest.json"

// manifest is the JSON beside the files.
type manifest struct {
	Inputs map[string]string `json:"inputs"`
	Files  map[string]string `json:"files"`
}

// Open returns the store in dir; "" is kata-in-go in the user's cache folder.
// The folder is created when something is built.
func Open(dir string) (*Store, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the user's cache folder: %w", err)
		}
		dir = filepath.Join(user, "kata-in-go")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir}, nil
}

// Dir returns the store's folder.
func (s *Store) Dir() string { return s.dir }

// Key returns the key of an entry that is built from the inputs.
func Key(inputs map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		fmt.Fprintf(h, "%d:%s=%d:%s\n", len(name), name, len(inputs[name]), inputs[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// Get returns the entry of the inputs after checking it, or an error that
// wraps fs.ErrNotExist when there is none and is a *DamagedError when it is
// not what was built.
func (s *Store) Get(kind string, inputs map[string]string) (*Entry, error) {
	return s.get(kind, Key(inputs))
}

func (s *Store) get(kind, key string) (*Entry, error) {
	e, err := s.open(kind, key)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(e.Files)) {
		sum, err := HashFile(e.Path(name))
		if err != nil {
			return nil, &DamagedError{e.Dir, err}
		}
		if sum != e.Files[name] {
			return nil, &DamagedError{e.Dir, fmt.Errorf("%s has changed", name)}
		}
	}
	return e, nil
}

// open reads an entry's manifest without checking the files.
func (s *Store) open(kind, key string) (*Entry, error) {
	dir := filepath.Join(s.dir, kind, key)
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, &DamagedError{dir, err}
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, &DamagedError{dir, fmt.Errorf("%s: %w", manifestName, err)}
	}
	if Key(m.Inputs) != key || len(m.Files) == 0 {
		return nil, &DamagedError{dir, fmt.Errorf("%s is not of this entry", manifestName)}
	}
	for name := range m.Files {
		if name != filepath.Base(name) {
			return nil, &DamagedError{dir, fmt.Errorf("%s names the file %q", manifestName, name)}
		}
	}
	return &Entry{Kind: kind, Key: key, Dir: dir, Inputs: m.Inputs, Files: m.Files}, nil
}

// List returns all entries, sorted, without checking their files. Entries
// whose manifest is damaged are left out.
func (s *Store) List() ([]*Entry, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*", "*", manifestName))
	if err != nil {
		return nil, err
	}
	var out []*Entry
	for _, p := range paths {
		dir := filepath.Dir(p)
		e, err := s.open(filepath.Base(filepath.Dir(dir)), filepath.Base(dir))
		if err == nil {
			out = append(out, e)
		}
	}
	return out, nil
}

// Builder builds an entry: its files go into out, which is empty at the
// start. work is a folder that an interrupted build finds again as it left
// it; it is removed after a build that succeeds.
type Builder func(ctx context.Context, out, work string) error

// Make returns the entry of the inputs, built if need be; cached says that it
// was there. notify is told what takes its time.
func (s *Store) Make(ctx context.Context, kind string, inputs map[string]string, notify func(string), build Builder) (entry *Entry, cached bool, err error) {
	key := Key(inputs)
	unlock, err := s.lock(ctx, kind, key, notify)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	entry, err = s.get(kind, key)
	var damaged *DamagedError
	switch {
	case err == nil:
		return entry, true, nil
	case errors.As(err, &damaged):
		notify(err.Error() + "; building it again")
		if err := os.RemoveAll(damaged.Dir); err != nil {
			return nil, false, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	if err := s.build(ctx, kind, key, inputs, build); err != nil {
		return nil, false, err
	}
	entry, err = s.get(kind, key)
	return entry, false, err
}

// build runs the builder and puts the entry in place. The lock is held.
func (s *Store) build(ctx context.Context, kind, key string, inputs map[string]string, build Builder) error {
	work := filepath.Join(s.dir, kind, "."+key+".work")
	out := filepath.Join(s.dir, kind, "."+key+".new")
	if err := os.RemoveAll(out); err != nil { // of a builder that was killed
		return err
	}
	for _, dir := range []string{work, out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	defer os.RemoveAll(out)
	if err := build(ctx, out, work); err != nil {
		return err
	}
	if err := seal(out, inputs); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := os.Rename(out, filepath.Join(s.dir, kind, key)); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// seal writes the manifest and brings everything to the disk.
func seal(dir string, inputs map[string]string) error {
	m := manifest{Inputs: inputs, Files: map[string]string{}}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if m.Files[f.Name()], err = HashFile(path); err != nil {
			return err
		}
		if err := syncFile(path); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, manifestName)
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return errors.Join(syncFile(path), syncFile(dir))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// HashFile returns the SHA-256 sum of a file, in hex.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// String describes the entry in a line.
func (e *Entry) String() string {
	inputs := make([]string, 0, len(e.Inputs))
	for _, name := range slices.Sorted(maps.Keys(e.Inputs)) {
		inputs = append(inputs, name+" "+e.Inputs[name])
	}
	return fmt.Sprintf("%s %s (%s)", e.Kind, e.Key, strings.Join(inputs, "; "))
}
