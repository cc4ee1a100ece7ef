package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// hostFilesName is the file in a package's folder that names what its tests
// need of the host: a path or a pattern a line. Programs go to /bin of the
// guest, anything else to where it was; shared libraries come along.
const hostFilesName = "testdata/host-files"

// hostFiles adds to files, guest path -> host file, what the package in dir
// needs of the host.
func hostFiles(dir string, files map[string]string) error {
	text, err := os.ReadFile(filepath.Join(dir, hostFilesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, pattern := range strings.Fields(string(text)) {
		found, err := filepath.Glob(pattern)
		if err == nil && len(found) == 0 {
			err = fs.ErrNotExist
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w (see make setup)", hostFilesName, pattern, err)
		}
		for _, file := range found {
			at := file
			if strings.HasSuffix(path.Dir(file), "bin") {
				at = "/bin/" + path.Base(file)
			}
			if err := addProgram(at, file, files); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

// addProgram adds a file and, if it is a program or a shared library, the
// interpreter and the libraries that it needs.
func addProgram(at, file string, files map[string]string) error {
	if _, known := files[at]; known {
		return nil
	}
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	files[at] = target
	f, err := os.Open(target)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, len(elf.ELFMAG))
	if n, _ := f.ReadAt(magic, 0); string(magic[:n]) != elf.ELFMAG {
		return nil
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return err
	}
	for _, s := range program.Progs {
		if s.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, s.Filesz)
		if _, err := s.ReadAt(name, 0); err != nil {
			return err
		}
		interpreter := strings.TrimRight(string(name), "\x00")
		if err := addProgram(interpreter, interpreter, files); err != nil {
			return err
		}
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range libraries {
		library, err := findLibrary(name)
		if err != nil {
			return err
		}
		if err := addProgram(library, library, files); err != nil {
			return err
		}
	}
	return nil
}

// findLibrary returns the path of a shared library, of those that ld.so(8) finds
// by itself.
func findLibrary(name string) (string, error) {
	for _, pattern := range []string{"/lib/*-linux-gnu", "/usr/lib/*-linux-gnu", "/lib64", "/lib", "/usr/lib"} {
		found, err := filepath.Glob(filepath.Join(pattern, name))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("library %s: %w", name, fs.ErrNotExist)
}
