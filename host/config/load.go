package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Names by which the file may be given; callers pass their values in Sources.
const (
	// AnnotationPath is the sandbox annotation that names the file.
	AnnotationPath = "io.katacontainers.config_path"
	// EnvPath is the environment variable that names the file.
	EnvPath = "KATA_CONF_FILE"
)

// maxFileSize bounds what is read: the largest of upstream's files has 35 KB.
const maxFileSize = 256 << 10

// SearchPaths returns where the file is looked for when nobody names one, in
// this order.
func SearchPaths() []string {
	return []string{
		"/etc/kata-containers/configuration.toml",
		"/usr/share/defaults/kata-containers/configuration.toml",
	}
}

// Sources says where the file may be named. Of Option and Env the first that is
// not empty decides; Annotation is looked at when that file is read.
type Sources struct {
	// Annotation is the sandbox's annotation AnnotationPath. The file it names
	// replaces the operator's if the operator allows it: Policy.ConfigFolders of
	// the operator's file.
	Annotation string
	Option     string // ConfigPath of the options containerd passes to the shim
	Env        string // the environment variable EnvPath

	// Search replaces SearchPaths when it is not nil.
	Search []string
	// Host replaces ThisHost when it is not zero.
	Host Host
}

// Load finds the file, decodes and validates it. A file that is named and
// cannot be read is an error; when none is named and no file of the search
// list exists, the built-in defaults are returned. An error of the contents
// is an Errors or a *KeyError. A file that the annotation names and that the
// operator does not allow, that is not root's alone, or that is wrong is an error
// that names the annotation and quotes nothing of the file.
func Load(s Sources) (*Config, error) {
	if s.Host == (Host{}) {
		s.Host = ThisHost()
	}
	operator, err := loadOperators(s)
	if err != nil || s.Annotation == "" {
		return operator, err
	}
	c, err := loadNamedByPod(s.Annotation, operator.Policy.ConfigFolders, s.Host)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", AnnotationPath, err)
	}
	c.Policy = operator.Policy
	return c, nil
}

// loadOperators loads the file that the operator, not a pod, has chosen.
func loadOperators(s Sources) (*Config, error) {
	for _, named := range []struct{ by, path string }{
		{"shim option ConfigPath", s.Option},
		{"environment variable " + EnvPath, s.Env},
	} {
		if named.path == "" {
			continue
		}
		text, err := read(named.path)
		if err != nil {
			return nil, fmt.Errorf("read configuration file named by %s: %w", named.by, err)
		}
		return Decode(named.path, text, s.Host)
	}
	search := s.Search
	if search == nil {
		search = SearchPaths()
	}
	for _, path := range search {
		text, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read configuration file: %w", err)
		}
		return Decode(path, text, s.Host)
	}
	return Default(), nil
}

// read returns the text of a regular file. A pipe must not block and a huge file
// must not be loaded.
func read(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	return readAll(f, path)
}

// readAll returns the text of an open file, called path in errors.
func readAll(f *os.File, path string) (string, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, underlying(err))
	}
	if len(text) > maxFileSize {
		return "", &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", maxFileSize)}
	}
	return string(text), nil
}

// underlying drops the name of the file, for errors that tell it themselves.
func underlying(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
