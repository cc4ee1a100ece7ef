// Package storage mounts what the host gives to a pod or a container in the
// guest: shared folders, memory, directories (message Storage of the agent API).
//
// A [Manager] mounts a list of storages as one step: all of them or none. What
// several containers use is mounted once and counted. The package does not make
// the mounts of an OCI spec; those are in a container's own mount namespace.
//
// Mount points lie below one directory, and nothing on the way to them can lead
// out of it, whatever a container has written there (package inroot).
package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"kata/api/agentpb"
)

// Root is the directory below which mount points may lie; upstream's.
const Root = "/run/kata-containers"

// InvalidError is a storage that makes no sense.
type InvalidError struct{ Field, Value, Reason string }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("storage: %s %q %s", e.Field, e.Value, e.Reason)
}

// handler makes one storage available at its mount point and returns how to
// undo that.
type handler func(m *Manager, s *agentpb.Storage) (undo func() error, err error)

// handlers returns what there is by the name of the driver.
func handlers() map[string]handler {
	return map[string]handler{
		"virtio-fs": mountVirtioFS,
		"ephemeral": mountEphemeral,
		"local":     makeLocal,
		"bind":      mountBind,
	}
}

// Drivers returns the drivers that there are, sorted.
func Drivers() []string {
	var names []string
	for name := range handlers() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Manager mounts storages and knows which are mounted. The zero value is not
// usable: see NewManager.
type Manager struct {
	root string

	mu      sync.Mutex // guards mounted and the counts in it; never held while mounting
	mounted map[string]*mounted
}

// mounted is a storage at its mount point.
type mounted struct {
	point   string
	storage *agentpb.Storage
	users   int           // guarded by the Manager's mu; 0: being undone
	ready   chan struct{} // closed when undo and err are set
	gone    chan struct{} // closed when it is undone
	undo    func() error
	err     error
}

// NewManager returns a manager of mount points below root, an existing
// directory.
func NewManager(root string) *Manager {
	return &Manager{root: path.Clean(root), mounted: make(map[string]*mounted)}
}

// Set is what one Mount has mounted.
type Set struct {
	manager *Manager

	mu      sync.Mutex
	entries []*mounted // in the order mounted
}

// Mount mounts storages in their order. If one fails those before it are undone
// and the error names it. A mount point that is mounted already, from the same
// storage, is used with the others that use it.
func (m *Manager) Mount(ctx context.Context, storages []*agentpb.Storage) (*Set, error) {
	set := &Set{manager: m}
	for i, s := range storages {
		entry, err := m.mountOne(ctx, s)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storages[%d]: %w", i, err), set.Unmount())
		}
		set.entries = append(set.entries, entry)
	}
	return set, nil
}

func (m *Manager) mountOne(ctx context.Context, s *agentpb.Storage) (*mounted, error) {
	if err := m.check(s); err != nil {
		return nil, err
	}
	entry, first, err := m.enter(ctx, s)
	if err != nil {
		return nil, err
	}
	if first {
		entry.undo, entry.err = handlers()[s.Driver](m, s)
		close(entry.ready)
	}
	if err := entry.await(ctx, s); err != nil {
		return nil, errors.Join(err, m.leave(entry))
	}
	return entry, nil
}

// check finds out whether s makes sense at all.
func (m *Manager) check(s *agentpb.Storage) error {
	if s == nil {
		return &InvalidError{"entry", "", "is empty"}
	}
	if _, ok := handlers()[s.Driver]; !ok {
		return &InvalidError{"driver", s.Driver, "is not one of " + strings.Join(Drivers(), ", ")}
	}
	if len(s.DriverOptions) != 0 {
		return &InvalidError{"driver_options", s.DriverOptions[0], "is unknown to driver " + s.Driver}
	}
	if s.MountPoint == "" || strings.IndexByte(s.MountPoint, 0) >= 0 || !strings.HasPrefix(path.Clean(s.MountPoint), m.root+"/") {
		return &InvalidError{"mount_point", s.MountPoint, "is not a path below " + m.root}
	}
	return nil
}

// enter counts one user more of a mount point; the first one has to mount it.
func (m *Manager) enter(ctx context.Context, s *agentpb.Storage) (entry *mounted, first bool, err error) {
	point := path.Clean(s.MountPoint)
	for {
		m.mu.Lock()
		entry = m.mounted[point]
		if entry == nil {
			entry = &mounted{point: point, storage: s, users: 1, ready: make(chan struct{}), gone: make(chan struct{})}
			m.mounted[point] = entry
			m.mu.Unlock()
			return entry, true, nil
		}
		if entry.users > 0 {
			entry.users++
			m.mu.Unlock()
			return entry, false, nil
		}
		m.mu.Unlock()
		select {
		case <-entry.gone:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// await waits until the entry is mounted and finds out whether it is what s
// asks for.
func (e *mounted) await(ctx context.Context, s *agentpb.Storage) error {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.err != nil {
		return e.err
	}
	if have := e.storage; have.Driver != s.Driver || have.Source != s.Source || have.Fstype != s.Fstype || !slices.Equal(have.Options, s.Options) {
		return &InvalidError{"mount_point", s.MountPoint, "is in use by another storage"}
	}
	return nil
}

// leave counts one user less of a mount point; the last one has to undo it.
func (m *Manager) leave(entry *mounted) error {
	m.mu.Lock()
	entry.users--
	last := entry.users == 0
	m.mu.Unlock()
	if !last {
		return nil
	}
	// Nobody enters any more, and whoever was in has seen ready.
	<-entry.ready
	var err error
	if entry.err == nil {
		err = entry.undo()
	}
	m.mu.Lock()
	delete(m.mounted, entry.point)
	m.mu.Unlock()
	close(entry.gone)
	return err
}

// Unmount undoes the mounts in reverse order, as far as nobody else uses them.
// It goes on after an error and returns all of them. A further call does
// nothing, nor does one of a nil Set.
func (s *Set) Unmount() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	entries := s.entries
	s.entries = nil
	s.mu.Unlock()
	var errs []error
	for _, entry := range slices.Backward(entries) {
		errs = append(errs, s.manager.leave(entry))
	}
	return errors.Join(errs...)
}
