// Package module loads kernel modules of the guest's image (finit_module(2)).
//
// A purpose-built kernel has everything built in; a distribution's has little,
// and its image brings the modules that a guest needs, with a list in their load
// order (api.ModuleList) that the image's builder has made. There is no modprobe
// in the guest, and nothing loads a module behind the agent's back.
//
//	boot virtio_ring
//	boot virtio virtio_ring
//	more dummy
//	built ext4 unix
//
// A line is when a module is loaded, its name, and what it depends on, all of it
// and in load order; the file is NAME.ko beside the list. The names of what is built
// in are there, too, because the kernel does not tell. [Set.Boot] loads those
// of boot and removes their files, which are memory. [Set.Load] loads one by name,
// for CreateSandbox. [Set.Close] ends the loading of modules for good and removes
// the files of those that nobody has asked for.
package module

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// maxList bounds the list, which is the image's, in bytes.
const maxList = 1 << 20

// ErrMissing says that a module is neither in the image nor in the kernel.
var ErrMissing = errors.New("neither the guest's image nor its kernel has it")

// Set are the modules of an image.
type Set struct {
	dir, sys, disable string
	load              func(fd int, params string) error

	mu      sync.Mutex
	modules []entry
	built   []string
	closed  bool
}

// entry is a line of the list.
type entry struct {
	boot  bool
	name  string
	needs []string
}

// Read reads the list in a folder. Without one the set is empty.
func Read(dir, list string) (*Set, error) {
	s := &Set{
		dir: dir, sys: "/sys/module", disable: "/proc/sys/kernel/modules_disabled",
		load: func(fd int, params string) error { return unix.FinitModule(fd, params, 0) },
	}
	info, err := os.Stat(dir + "/" + list)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil && info.Size() > maxList {
		err = errors.New("the list of kernel modules is too long")
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(dir + "/" + list)
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) < 2:
		case words[0] == "built":
			s.built = words[1:]
		default:
			s.modules = append(s.modules, entry{words[0] == "boot", words[1], words[2:]})
		}
	}
	return s, nil
}

// Boot loads the modules that a guest needs in any case and removes their files.
// Each that cannot be loaded is reported to failed, and the others are loaded. It
// returns how many were tried.
func (s *Set) Boot(failed func(name string, err error)) (tried int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []entry
	for _, m := range s.modules {
		if !m.boot {
			rest = append(rest, m)
			continue
		}
		if err := s.insert(m.name, ""); err != nil {
			failed(m.name, err)
		}
		_ = os.Remove(s.file(m.name))
		tried++
	}
	s.modules = rest
	return tried
}

// Left reports whether there are modules that may still be asked for.
func (s *Set) Left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.modules) > 0
}

// Load loads a module with its parameters ("key=value", those with spaces in
// double quotes), and first what it depends on. One that is there already, or is
// built in, takes those parameters that can be changed. The error wraps ErrMissing
// or what the kernel says.
func (s *Set) Load(name string, params []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = underscored(name)
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return ErrMissing
	}
	if s.present(name) {
		return s.set(name, params)
	}
	for _, m := range s.modules {
		if m.name != name {
			continue
		}
		for _, need := range m.needs {
			if s.present(need) {
				continue
			}
			if err := s.insert(need, ""); err != nil {
				return fmt.Errorf("needs %s: %w", need, err)
			}
		}
		return s.insert(name, strings.Join(params, " "))
	}
	return ErrMissing
}

// present reports whether a module is loaded or built in.
func (s *Set) present(name string) bool {
	for _, built := range s.built {
		if built == name {
			return true
		}
	}
	return unix.Access(s.sys+"/"+name, unix.F_OK) == nil
}

// set sets parameters of a module that is there.
func (s *Set) set(name string, params []string) error {
	for _, p := range params {
		key, value, _ := strings.Cut(p, "=")
		if key == "" || strings.ContainsAny(key, "/\x00") {
			return fmt.Errorf("parameter %q: %w", p, unix.EINVAL)
		}
		file, err := os.OpenFile(s.sys+"/"+name+"/parameters/"+underscored(key), os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString(value)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return fmt.Errorf("it is loaded already, and its parameter %q cannot be set: %w", p, err)
		}
	}
	return nil
}

// insert loads a file of the image. One that is loaded already is no error.
func (s *Set) insert(name, params string) error {
	fd, err := unix.Open(s.file(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.file(name), Err: err}
	}
	defer unix.Close(fd)
	if err := s.load(fd, params); err != nil && err != unix.EEXIST {
		return os.NewSyscallError("finit_module", err)
	}
	return nil
}

func (s *Set) file(name string) string { return s.dir + "/" + name + ".ko" }

// Close ends the loading of modules until the machine ends. Its first call needs a
// root that can be written to, if there are files to be removed.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, m := range s.modules {
		_ = os.Remove(s.file(m.name)) // at worst it stays
	}
	s.modules = nil
	file, err := os.OpenFile(s.disable, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the kernel knows no modules
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString("1")
	return errors.Join(err, file.Close())
}

// underscored is a name as the kernel has it.
func underscored(name string) string { return strings.ReplaceAll(name, "-", "_") }
