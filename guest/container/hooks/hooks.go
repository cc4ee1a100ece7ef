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
	"math"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/lib/fmt"
)

// Kind is a point in a container's life, by the specification's name.
type Kind string

// The kinds in the order in which they come.
const (
	Prestart        Kind = "prestart"
	CreateRuntime   Kind = "createRuntime"
	CreateContainer Kind = "createContainer"
	StartContainer  Kind = "startContainer"
	Poststart       Kind = "poststart"
	Poststop        Kind = "poststop"
)

// FolderTimeout bounds each hook that Find has found.
const FolderTimeout = 10 * time.Second

// row returns the place in h of the hooks of a kind. Inlined it would be there
// five times.
//
//go:noinline
func row(h *ocipb.Hooks, k Kind) *[]*ocipb.Hook {
	switch k {
	case Prestart:
		return &h.Prestart
	case CreateRuntime:
		return &h.CreateRuntime
	case CreateContainer:
		return &h.CreateContainer
	case StartContainer:
		return &h.StartContainer
	case Poststart:
		return &h.Poststart
	}
	return &h.Poststop
}

// Of returns the hooks of a kind. h may be nil.
func Of(h *ocipb.Hooks, k Kind) []*ocipb.Hook {
	if h == nil {
		return nil
	}
	return *row(h, k)
}

func kinds() [6]Kind {
	return [...]Kind{Prestart, CreateRuntime, CreateContainer, StartContainer, Poststart, Poststop}
}

// Validate finds out whether hooks can be run at all. The error names the field
// and its value.
func Validate(h *ocipb.Hooks) error {
	for _, k := range kinds() {
		for i, hook := range Of(h, k) {
			if err := validate(hook); err != nil {
				return fmt.Errorf("hooks.%s[%d].%w", k, i, err)
			}
		}
	}
	return nil
}

func validate(h *ocipb.Hook) error {
	if p := h.GetPath(); !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("path %q is not an absolute path", p)
	}
	if h.Timeout < 0 {
		return fmt.Errorf("timeout %d is not above 0", h.Timeout)
	}
	for i, arg := range h.Args {
		if strings.IndexByte(arg, 0) >= 0 {
			return fmt.Errorf("args[%d] %q holds a zero byte", i, arg)
		}
	}
	for i, pair := range h.Env {
		if key, _, ok := strings.Cut(pair, "="); !ok || key == "" || strings.IndexByte(pair, 0) >= 0 {
			return fmt.Errorf("env[%d] %q is not a variable and its value", i, pair)
		}
	}
	return nil
}

// timeout is how long a hook may take, 0 for as long as it likes.
func timeout(h *ocipb.Hook) time.Duration {
	if h.Timeout > int64(math.MaxInt64/time.Second) {
		return 0
	}
	return time.Duration(h.Timeout) * time.Second
}

// Find returns the hooks of a folder: in folders by the names of the kinds,
// every file that may be executed, in the order of their names. Like upstream's
// they get their file's name and the kind as arguments. The folder itself must
// exist.
func Find(dir string) (*ocipb.Hooks, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, &os.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	found := &ocipb.Hooks{}
	for _, k := range kinds() {
		names, err := readNames(dir + "/" + string(k))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			file := path.Join(dir, string(k), name)
			info, err := os.Stat(file) // of what a link leads to
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
				continue
			}
			hooks := row(found, k)
			*hooks = append(*hooks, &ocipb.Hook{
				Path: file, Args: []string{name, string(k)}, Timeout: int64(FolderTimeout / time.Second),
			})
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

// Join returns the hooks of a, each kind followed by those of b. Both may be
// nil and are not changed.
func Join(a, b *ocipb.Hooks) *ocipb.Hooks {
	if b == nil {
		return a
	}
	joined := &ocipb.Hooks{}
	for _, k := range kinds() {
		*row(joined, k) = append(append([]*ocipb.Hook(nil), Of(a, k)...), Of(b, k)...)
	}
	return joined
}
