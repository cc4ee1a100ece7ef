// Package hooks runs programs at points of a container's life, as the OCI
// runtime specification has them ("Lifecycle", "POSIX-platform Hooks"). All of
// it happens in the guest: hooks of the host are the host's.
//
//	prestart         guest      the container's namespaces and mounts are made,
//	createRuntime    guest      its root is not yet the root; in this order
//	createContainer  container  after them, still before the root is changed
//	startContainer   container  last thing before the container's program
//	poststart        guest      when the program has been started
//	poststop         guest      when the container is gone
//
// The second column says in whose namespaces a hook runs, and where its path
// is looked up: createContainer's is the guest's path all the same, because the
// root is still the guest's then; startContainer's is the container's, and it
// runs with no more rights than the container's program.
//
// A hook gets the container's state on standard input, the environment that it
// is given and no other, and ends with a status of 0, or the step that it is
// part of fails: of poststart and poststop that is only logged. Hooks of one
// kind run one after the other, and the first failure ends the row, except for
// those two.
//
// The package knows what hooks are, finds those of a folder and runs a row of
// them. When they run is the container runtime's business, and so is the way a
// child is started and waited for, which in the agent is the reaper's.
package hooks

import (
	"errors"
	"os"
	"path"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is a point in a container's life.
type Kind int

// The kinds in the order in which they come.
const (
	Prestart Kind = iota
	CreateRuntime
	CreateContainer
	StartContainer
	Poststart
	Poststop
)

// kinds are the specification's names.
var kinds = [...]string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// String is the specification's name.
func (k Kind) String() string { return kinds[k] }

// FolderTimeout bounds each hook that Find has found.
const FolderTimeout = 10 * time.Second

// Hook is a program and how it is run.
type Hook struct {
	Path string
	// Args are the arguments, the program's name being the first; none are the path
	// alone.
	Args, Env []string
	// Timeout is how long it may take, 0 for as long as it likes.
	Timeout time.Duration
}

// Set are the hooks of a container, by their kinds.
type Set [len(kinds)][]Hook

// Find returns the hooks of a folder: in folders by the names of the kinds,
// every file that may be executed, in the order of their names. Like upstream's
// they get their file's name and the kind as arguments. The folder itself must
// exist.
func Find(dir string) (found Set, err error) {
	if info, err := os.Stat(dir); err != nil {
		return found, err
	} else if !info.IsDir() {
		return found, &os.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	for k, kind := range kinds {
		names, err := readNames(dir + "/" + kind)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		for _, name := range names {
			file := path.Join(dir, kind, name)
			info, err := os.Stat(file) // of what a link leads to
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
				continue
			}
			found[k] = append(found[k], Hook{Path: file, Args: []string{name, kind}, Timeout: FolderTimeout})
		}
	}
	return found, nil
}

// readNames returns what is in a folder, in order.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	sort.Stable(sort.StringSlice(names))
	return names, errors.Join(err, d.Close())
}

// With returns the hooks of s, each kind followed by those of t. Neither is changed.
func (s Set) With(t Set) Set {
	for k := range s {
		s[k] = append(s[k][:len(s[k]):len(s[k])], t[k]...)
	}
	return s
}
