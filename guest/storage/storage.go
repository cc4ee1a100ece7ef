// Package storage mounts what the host gives to a pod or a container in the
// guest: shared folders, disks, memory, directories, and overlays of them
// (message Storage of the agent API).
//
// A [Manager] mounts a list of storages as one step: all of them or none, and
// what it had to make for them, directories included, is gone again after a
// failure. What several containers use is mounted once and counted. The package
// does not make the mounts of an OCI spec; those are in a container's own mount
// namespace.
//
// Mount points lie below one directory, and nothing on the way to them can lead
// out of it, whatever a container has written there (package inroot).
//
// # Drivers
//
//   - virtio-fs, 9p: the source is the device's tag. Among 9p's options trans=
//     may be missing, and is virtio.
//   - blk: the source is a PCI path (package device), or a node below /dev.
//     The file system is fstype; "bind" gives the node itself.
//   - scsi: the source is TARGET:LUN. mmioblk, nvdimm: a node below /dev.
//   - ephemeral: a tmpfs, the size of which is among the options, or hugetlbfs,
//     with the options pagesize= and size= in bytes, for which so many huge
//     pages are reserved.
//   - local: a directory, with the option mode= in octal.
//   - bind: the source is a path in the guest.
//   - overlayfs: lowerdir=, upperdir= and workdir= are among the options. With
//     io.katacontainers.fs-opt.overlay-rw the upper and work directories are
//     made, in the guest's memory, and go with the overlay.
//   - erofs.multi-layer: an overlay of disks; see layers.go.
//
// The option fsgid= (or fsGroup=) of ephemeral and local is the group that the
// directory is given to; fs_group does that for whole file systems.
package storage

import (
	"context"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"kata/api"
	"kata/api/agentpb"
	"kata/guest/fault"
	"kata/guest/machine/device"
	"kata/lib/fmt"
)

// Root is the directory below which mount points may lie.
const Root = api.GuestRoot

// InvalidError is a storage that makes no sense.
type InvalidError = fault.Error

func invalid(field, value, reason string) error {
	return fault.Field("storage: "+field, strconv.Quote(value), reason)
}

// failed says what was being done when err happened.
//
//go:noinline
func failed(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }

// release undoes something.
type release func() error

// handler makes one storage available at its mount point and returns how to
// undo that.
type handler func(ctx context.Context, m *Manager, j *job) (release, error)

// job is one mount to make.
type job struct {
	*agentpb.Storage
	// index is its place in the request.
	index int
	// layers are what an overlay of disks is made of.
	layers []*agentpb.Storage
}

// driver is a kind of storage.
type driver struct {
	name  string
	mount handler
	// group says that its files may be given to a group.
	group bool
}

// drivers are all there are, in the order of their names.
var drivers = [...]driver{
	{"9p", mount9P, false},
	{"bind", mountBind, true},
	{"blk", mountDisk, true},
	{"ephemeral", mountEphemeral, true},
	{driverLayers, mountLayers, false},
	{"local", makeLocal, true},
	{"mmioblk", mountDisk, true},
	{"nvdimm", mountDisk, true},
	{"overlayfs", mountOverlay, false},
	{"scsi", mountDisk, true},
	{"virtio-fs", mountVirtioFS, false},
}

// Drivers returns the names of the drivers that there are, sorted.
func Drivers() []string {
	var names []string
	for _, d := range drivers {
		names = append(names, d.name)
	}
	return names
}

// find returns the driver of a name.
func find(name string) (driver, bool) {
	for _, d := range drivers {
		if d.name == name {
			return d, true
		}
	}
	return driver{}, false
}

// Manager mounts storages and knows which are mounted. The zero value is not
// usable: see NewManager.
type Manager struct {
	root    string
	devices *device.Finder
	// pages is held by who changes the number of huge pages.
	pages     chan struct{}
	scratches atomic.Uint64 // made so far

	mu      sync.Mutex // guards mounted and the counts in it; never held while mounting
	mounted map[string]*mounted
}

// mounted is a storage at its mount point.
type mounted struct {
	point string
	job   *job
	users int           // guarded by the Manager's mu; 0: being undone
	kept  bool          // guarded by the Manager's mu: one of the users is the pod
	ready chan struct{} // closed when undo and err are set
	gone  chan struct{} // closed when it is undone
	undo  release
	err   error
}

// NewManager returns a manager of mount points below root, an existing
// directory. It waits for devices with devices.
func NewManager(root string, devices *device.Finder) *Manager {
	return &Manager{
		root: path.Clean(root), devices: devices, pages: make(chan struct{}, 1), mounted: make(map[string]*mounted),
	}
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
	jobs, err := m.plan(storages)
	if err != nil {
		return nil, err
	}
	set := &Set{manager: m}
	for _, j := range jobs {
		entry, err := m.mountOne(ctx, j)
		if err != nil {
			return nil, errors.Join(j.named(err), set.Unmount())
		}
		set.entries = append(set.entries, entry)
	}
	return set, nil
}

// named says which storage an error is about.
func (j *job) named(err error) error { return failed("storages["+strconv.Itoa(j.index)+"]", err) }

// plan checks storages and makes jobs of them.
func (m *Manager) plan(storages []*agentpb.Storage) ([]*job, error) {
	var jobs []*job
	var layered *job
	for i, s := range storages {
		j := &job{Storage: s, index: i}
		if s != nil && isLayer(s) {
			if layered != nil {
				layered.layers = append(layered.layers, s)
				continue
			}
			j.layers = []*agentpb.Storage{s}
			layered = j
		}
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		var err error
		if j.layers != nil {
			err = j.setTop()
		}
		if err == nil {
			err = m.check(j)
		}
		if err != nil {
			return nil, j.named(err)
		}
	}
	return jobs, nil
}

// mountOne mounts a storage, or waits for who does. Whoever mounts may give up:
// that is no reason for the others to.
func (m *Manager) mountOne(ctx context.Context, j *job) (*mounted, error) {
	for {
		entry, first, err := m.enter(ctx, j)
		if err != nil {
			return nil, err
		}
		if first {
			m.mount(ctx, entry)
		}
		if err = entry.await(ctx, j); err == nil {
			return entry, nil
		}
		gaveUp := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if err = errors.Join(err, m.leave(entry)); first || !gaveUp || ctx.Err() != nil {
			return nil, err
		}
	}
}

// errPanic is why those who wait for a mount do not get it.
var errPanic = errors.New("mounting panicked")

// mount makes an entry ready, even if its driver panics.
func (m *Manager) mount(ctx context.Context, entry *mounted) {
	entry.err = errPanic
	defer close(entry.ready)
	d, _ := find(entry.job.Driver)
	entry.undo, entry.err = d.mount(ctx, m, entry.job)
}

// check finds out whether a storage makes sense at all.
func (m *Manager) check(j *job) error {
	if j.Storage == nil {
		return invalid("entry", "", "is empty")
	}
	d, ok := find(j.Driver)
	if !ok {
		return invalid("driver", j.Driver, "is not one of "+strings.Join(Drivers(), ", "))
	}
	if err := checkOptions(j.Storage, j.Driver); err != nil {
		return err
	}
	if strings.IndexByte(j.MountPoint, 0) >= 0 || !strings.HasPrefix(path.Clean(j.MountPoint), m.root+"/") {
		return invalid("mount_point", j.MountPoint, "is not a path below "+m.root)
	}
	if j.FsGroup != nil && !d.group {
		return noGroup(j.Storage, "is not possible with driver "+j.Driver)
	}
	if j.FsGroup.GetGroupId() == 1<<32-1 { // chown(2): as it is
		return noGroup(j.Storage, "is not a group")
	}
	return nil
}

func noGroup(s *agentpb.Storage, reason string) error {
	return invalid("fs_group", strconv.FormatUint(uint64(s.FsGroup.GroupId), 10), reason)
}

// checkOptions refuses what no driver has: options for drivers, some of which
// this agent does not have on purpose, and policies that are unknown.
func checkOptions(s *agentpb.Storage, driver string) error {
	if p := int(s.FsGroup.GetGroupChangePolicy()); p != 0 && p != 1 {
		return invalid("fs_group.group_change_policy", strconv.Itoa(p), "is neither Always (0) nor OnRootMismatch (1)")
	}
	if s.FsGroup != nil && driver == driverLayers {
		return noGroup(s, "is not possible with driver "+driver)
	}
	if len(s.DriverOptions) == 0 {
		return nil
	}
	option := s.DriverOptions[0]
	if strings.HasPrefix(option, "encryption_key=") || strings.HasPrefix(option, "confidential=") {
		return invalid("driver_options", option, "is not possible: this agent has no confidential data hub to ask for keys")
	}
	return invalid("driver_options", option, "is unknown to driver "+driver)
}

// enter counts one user more of a mount point; the first one has to mount it.
func (m *Manager) enter(ctx context.Context, j *job) (entry *mounted, first bool, err error) {
	point := path.Clean(j.MountPoint)
	for {
		m.mu.Lock()
		entry = m.mounted[point]
		if entry == nil {
			entry = &mounted{point: point, job: j, users: 1, ready: make(chan struct{}), gone: make(chan struct{})}
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

// await waits until the entry is mounted and finds out whether it is what j asks
// for.
func (e *mounted) await(ctx context.Context, j *job) error {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.err != nil {
		return e.err
	}
	if !e.job.same(j) {
		return invalid("mount_point", j.MountPoint, "is in use by another storage")
	}
	return nil
}

// same reports whether two jobs mount the same.
func (j *job) same(o *job) bool {
	return same(j.Storage, o.Storage) && slices.EqualFunc(j.layers, o.layers, same)
}

func same(a, b *agentpb.Storage) bool {
	return a.Driver == b.Driver && a.Source == b.Source && a.Fstype == b.Fstype && slices.Equal(a.Options, b.Options)
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
	return s.each(s.manager.leave)
}

// Release is Unmount for a container that has come to its regular end: storages
// that are marked as shared stay until [Manager.Close], for the next container
// to find them.
func (s *Set) Release() error {
	if s == nil {
		return nil
	}
	return s.each(func(entry *mounted) error {
		if entry.job.Shared && s.manager.keep(entry) {
			return nil
		}
		return s.manager.leave(entry)
	})
}

func (s *Set) each(do func(*mounted) error) error {
	s.mu.Lock()
	entries := s.entries
	s.entries = nil
	s.mu.Unlock()
	var errs []error
	for _, entry := range slices.Backward(entries) {
		errs = append(errs, do(entry))
	}
	return errors.Join(errs...)
}

// keep makes the pod a user in the place of the one that leaves, unless it is
// one.
func (m *Manager) keep(entry *mounted) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if entry.kept {
		return false
	}
	entry.kept = true
	return true
}

// Close undoes the mounts that were kept for the pod.
func (m *Manager) Close() error {
	var kept []*mounted
	m.mu.Lock()
	for _, entry := range m.mounted {
		if entry.kept {
			entry.kept = false
			kept = append(kept, entry)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, entry := range kept {
		errs = append(errs, m.leave(entry))
	}
	return errors.Join(errs...)
}
