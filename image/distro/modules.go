package distro

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A tree is the modules of a kernel: a folder /lib/modules/VERSION. What depends
// on what is read from the modules themselves (section .modinfo), since
// modules.dep is made by depmod(8) when a package is installed.
type tree struct {
	dir     string
	files   map[string]string // by the name that the kernel has for it
	builtin map[string]bool
	inside  map[string]bool // aliases of what is built in
	read    map[string]*module
	aliases map[string][]string // by alias, of all modules; nil before it is needed
}

// module is one file.
type module struct {
	name    string
	data    []byte // unpacked
	depends []string
	soft    []string // softdep=pre: better loaded before, if there
	alias   []string
}

// openTree finds the modules of a folder.
func openTree(dir string) (*tree, error) {
	t := &tree{dir: dir, files: make(map[string]string), builtin: make(map[string]bool), inside: make(map[string]bool), read: make(map[string]*module)}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name, ok := moduleName(path); ok {
			t.files[name] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, line := range strings.Fields(string(list)) {
		if name, ok := moduleName(line); ok {
			t.builtin[name] = true
		}
	}
	// Lines as "crc32c_generic.alias=crc32c", zero bytes between.
	info, err := os.ReadFile(filepath.Join(dir, "modules.builtin.modinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, line := range strings.Split(string(info), "\x00") {
		if _, alias, ok := strings.Cut(line, ".alias="); ok {
			t.inside[alias] = true
		}
	}
	return t, nil
}

// moduleName returns the kernel's name for a file, if it is a module.
func moduleName(path string) (string, bool) {
	name := filepath.Base(path)
	for _, packed := range []string{".xz", ".zst", ".gz"} {
		name = strings.TrimSuffix(name, packed)
	}
	name, ok := strings.CutSuffix(name, ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok
}

// get reads a module.
func (t *tree) get(ctx context.Context, name string) (*module, error) {
	if m := t.read[name]; m != nil {
		return m, nil
	}
	path, ok := t.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	data, err := readModule(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read %s: it is no kernel module", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	m := &module{name: name, data: unsigned(data)}
	for _, line := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "depends":
			m.depends = append(m.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			m.soft = append(m.soft, softBefore(value)...)
		case "alias":
			m.alias = append(m.alias, value)
		}
	}
	t.read[name] = m
	return m, nil
}

// unsigned cuts a module's signature off (Documentation/admin-guide/
// module-signing.rst). Whoever gives the guest its initrd gives it its kernel too,
// so checking costs the boot of each guest time and proves nothing.
func unsigned(data []byte) []byte {
	const end = "~Module signature appended~\n"
	const info = 12 // struct module_signature, whose last four bytes are a size
	rest, ok := bytes.CutSuffix(data, []byte(end))
	if !ok || len(rest) < info {
		return data
	}
	size := int(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	if size > len(rest)-info {
		return data
	}
	return rest[:len(rest)-info-size]
}

// softBefore returns what a line as "pre: a b post: c" names to be loaded before.
func softBefore(value string) (names []string) {
	before := false
	for word := range strings.FieldsSeq(value) {
		switch word {
		case "pre:":
			before = true
		case "post:":
			before = false
		default:
			if before {
				names = append(names, word)
			}
		}
	}
	return names
}

// readModule reads a file and unpacks it: not every kernel does that itself.
func readModule(ctx context.Context, path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(path) {
	case ".xz":
		return filter(ctx, data, "xz", "-dc")
	case ".zst":
		return filter(ctx, data, "zstd", "-dc")
	case ".gz":
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	return data, nil
}

// resolve returns a module's dependencies in load order, and the module last.
// Those built in are left out; chain finds circles.
func (t *tree) resolve(ctx context.Context, name string, chain []string) ([]*module, error) {
	name = strings.ReplaceAll(name, "-", "_")
	if t.builtin[name] {
		return nil, nil
	}
	if slices.Contains(chain, name) {
		return nil, fmt.Errorf("%s depends on itself", name)
	}
	m, err := t.get(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no kernel module %s in %s: %w", name, t.dir, err)
	}
	if err != nil {
		return nil, err
	}
	chain = append(slices.Clip(chain), name)
	var all []*module
	add := func(more []*module) {
		for _, n := range more {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	for _, need := range m.soft {
		if need, err = t.named(ctx, need); err != nil {
			return nil, err
		}
		if need != "" && !slices.Contains(chain, need) {
			more, err := t.resolve(ctx, need, chain)
			if err != nil {
				return nil, err
			}
			add(more)
		}
	}
	for _, need := range m.depends {
		more, err := t.resolve(ctx, need, chain)
		if err != nil {
			return nil, err
		}
		add(more)
	}
	return append(all, m), nil
}

// named returns the module of a name or an alias, "" if there is none: a soft
// dependency may be missing, or be built in under another name.
func (t *tree) named(ctx context.Context, name string) (string, error) {
	normal := strings.ReplaceAll(name, "-", "_")
	if t.builtin[normal] || t.files[normal] != "" {
		return normal, nil
	}
	if t.inside[name] {
		return "", nil
	}
	if t.aliases == nil {
		t.aliases = make(map[string][]string)
		for other := range t.files {
			known := t.read[other] != nil
			m, err := t.get(ctx, other)
			if err != nil {
				return "", err
			}
			if !known {
				delete(t.read, other) // all of them are much memory
			}
			for _, alias := range m.alias {
				t.aliases[alias] = append(t.aliases[alias], other)
			}
		}
	}
	// Of several the plainest works anywhere: crc32c_generic, not crc32c_intel.
	found := t.aliases[name]
	slices.SortFunc(found, func(a, b string) int {
		generic := func(s string) int { return strings.Count(s, "generic") }
		if n := generic(b) - generic(a); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	if len(found) == 0 {
		return "", nil
	}
	return found[0], nil
}
