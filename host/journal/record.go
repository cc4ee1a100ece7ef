package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kata/host/process"
)

const (
	version  = 2 // 1 was one JSON document, state.json
	fileName = "journal"
)

// Header says whose journal it is.
type Header struct {
	Version   int    `json:"version"`
	ID        string `json:"id"`
	Namespace string `json:"namespace,omitempty"`
	// Bundle tells sandboxes of the same id apart: two containerd namespaces,
	// or two daemons, may both run a container called "test".
	Bundle string `json:"bundle,omitempty"`
	// Shim is the process that holds the sandbox.
	Shim process.ID `json:"shim"`
}

// Seq names an entry in its journal.
type Seq uint64

// Record is an entry as it stands in a journal.
type Record struct {
	Seq   Seq
	Mark  Mark
	Entry Entry
}

// Mark says what an entry's release has to regard.
type Mark string

const (
	// Plain entries are released whatever became of others.
	Plain Mark = ""
	// UsedByGuest entries are kept while the guest may run.
	UsedByGuest Mark = "used_by_guest"
)

// line is a record's form on disk. One without a kind forgets the entry.
type line struct {
	Seq   Seq             `json:"seq"`
	Mark  Mark            `json:"mark,omitempty"`
	Kind  string          `json:"kind,omitempty"`
	Entry json.RawMessage `json:"entry,omitempty"`
}

func encode(r Record) ([]byte, error) {
	body, err := json.Marshal(r.Entry)
	if err != nil {
		return nil, err
	}
	return json.Marshal(line{r.Seq, r.Mark, r.Entry.kind(), body})
}

// contents are what a journal's file says.
type contents struct {
	header  Header
	records []Record
	last    Seq
	lines   int // entries' lines, those that are overtaken included
	size    int // bytes up to the end of the last whole line
}

// read reads the journal in a folder.
func read(dir string) (contents, error) {
	name := filepath.Join(dir, fileName)
	b, err := os.ReadFile(name)
	if err != nil {
		return contents{}, fmt.Errorf("read the journal: %w", err)
	}
	c, err := parse(b)
	if err != nil {
		return contents{}, fmt.Errorf("read the journal %s: %w", name, err)
	}
	return c, nil
}

// Read returns what the journal in the folder says, without locking it.
func Read(dir string) (Header, []Record, error) {
	c, err := read(dir)
	return c.header, c.records, err
}

func parse(b []byte) (contents, error) {
	var c contents
	first, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return c, errors.New("it has no header")
	}
	if err := json.Unmarshal(first, &c.header); err != nil {
		return c, fmt.Errorf("header: %w", err)
	}
	if c.header.Version != version {
		return c, fmt.Errorf("it has version %d, not %d", c.header.Version, version)
	}
	c.size = len(first) + 1
	for {
		text, more, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			return c, nil // cut off, or nothing
		}
		if err := c.apply(text); err != nil {
			return c, fmt.Errorf("line %d: %w", c.lines+2, err)
		}
		c.size += len(text) + 1
		c.lines++
		rest = more
	}
}

func (c *contents) apply(text []byte) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return err
	}
	c.last = max(c.last, l.Seq)
	if l.Kind == "" {
		c.records = without(c.records, l.Seq)
		return nil
	}
	e, err := decode(l.Kind, l.Entry)
	if err != nil {
		return err
	}
	c.records = with(c.records, Record{l.Seq, l.Mark, e})
	return nil
}

// with adds a record, or replaces the one of the same number.
func with(records []Record, r Record) []Record {
	for i := range records {
		if records[i].Seq == r.Seq {
			records[i] = r
			return records
		}
	}
	return append(records, r)
}

func without(records []Record, seq Seq) []Record {
	for i := range records {
		if records[i].Seq == seq {
			return append(records[:i:i], records[i+1:]...)
		}
	}
	return records
}
