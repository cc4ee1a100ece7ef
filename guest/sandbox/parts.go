package sandbox

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/agent/reaper"
	"kata/guest/container"
	"kata/guest/container/cgroup"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/stream"
	"kata/guest/machine/device"
	"kata/guest/machine/device/assign"
	"kata/guest/storage"
)

// What a sandbox is made of. Real, below, has the real ones; tests have fakes
// that pass the same suite.

// Runtime makes containers; see container.Runtime.
type Runtime interface {
	// Create returns an Instance with an error when something of it is left that
	// could not be released yet: that is to be destroyed until it succeeds.
	Create(ctx context.Context, spec *ocispec.Container, stdio container.Stdio, o RuntimeOptions) (Instance, error)
}

// RuntimeOptions are container.Options.
type RuntimeOptions struct {
	JoinPID Instance // nil for none
	Shared  []SharedMount
}

// SharedMount is container.SharedMount.
type SharedMount struct {
	Name              string
	Source            Instance
	Path, Destination string
}

// Instance is a container as the container runtime has it; see
// container.Container. Init and Spec may be called at any time, everything else
// between Create and Destroy; Destroy may be called again until it succeeds, and
// has every process collected by then.
type Instance interface {
	Init() Task
	Spec() *ocispec.Container
	Start(ctx context.Context) error
	Exec(ctx context.Context, id string, process *plan.Process, stdio container.Stdio) (Task, error)
	SignalAll(signal unix.Signal) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(limits *ocipb.LinuxResources) error
	Stats() (*agentpb.CgroupStats, error)
	Pids() ([]int, error)
	Cgroup() *cgroup.Group // nil only where Config.OOM is
	Destroy(ctx context.Context) error
}

// Task is one process of an Instance; see container.Process.
type Task interface {
	Done() <-chan struct{}
	Exit() reaper.Exit
	Console() *os.File
	// Signal fails with container.ErrNotRunning when the process has ended.
	Signal(signal unix.Signal) error
	Resize(columns, rows uint32) error
}

// Storages mounts storages; see storage.Manager.
type Storages interface {
	Mount(ctx context.Context, storages []*agentpb.Storage) (Mounts, error)
	LetGo()
	Close() error
}

// Mounts are what one Mount has mounted; see storage.Set. Further calls do
// nothing.
type Mounts interface {
	Release() error
	Unmount() error
}

// Devices gives devices to containers; see assign.Assign.
type Devices interface {
	Assign(ctx context.Context, devices []*agentpb.Device, spec *ocispec.Container) (Assigned, error)
}

// Assigned is what a container was given; see assign.Set.
type Assigned interface{ Release() error }

// Streams opens the streams of processes; see stream.Open.
type Streams interface {
	Open(ctx context.Context, c stream.Config) (*stream.Set, error)
}

// Real puts the guest's own parts into a Config.
func (c *Config) Real(r *container.Runtime, m *storage.Manager, f *device.Finder, h *stream.Hub) {
	c.Runtime, c.Storages, c.Devices, c.Streams = realRuntime{r}, realStorages{m}, realDevices{f}, realStreams{h}
}

type realRuntime struct{ *container.Runtime }

func (r realRuntime) Create(ctx context.Context, spec *ocispec.Container, stdio container.Stdio, o RuntimeOptions) (Instance, error) {
	options := container.Options{JoinPID: real(o.JoinPID)}
	for _, s := range o.Shared {
		options.Shared = append(options.Shared, container.SharedMount{
			Name: s.Name, Source: real(s.Source), Path: s.Path, Destination: s.Destination,
		})
	}
	c, err := r.Runtime.Create(ctx, spec, stdio, options)
	if c == nil {
		return nil, err
	}
	return instance{c}, err
}

// real is the container of an Instance that realRuntime has made, nil for none.
func real(i Instance) *container.Container {
	if own, ok := i.(instance); ok {
		return own.Container
	}
	return nil
}

type instance struct{ *container.Container }

func (i instance) Init() Task { return i.Container.Init() }

func (i instance) Exec(ctx context.Context, id string, process *plan.Process, stdio container.Stdio) (Task, error) {
	p, err := i.Container.Exec(ctx, id, process, stdio)
	if err != nil {
		return nil, err
	}
	return p, nil
}

type realStorages struct{ *storage.Manager }

func (s realStorages) Mount(ctx context.Context, all []*agentpb.Storage) (Mounts, error) {
	set, err := s.Manager.Mount(ctx, all)
	if err != nil {
		return nil, err
	}
	return set, nil
}

type realDevices struct{ *device.Finder }

func (d realDevices) Assign(ctx context.Context, all []*agentpb.Device, spec *ocispec.Container) (Assigned, error) {
	set, err := assign.Assign(ctx, d.Finder, all, spec)
	if err != nil {
		return nil, err
	}
	return set, nil
}

type realStreams struct{ hub *stream.Hub }

func (s realStreams) Open(ctx context.Context, c stream.Config) (*stream.Set, error) {
	return stream.Open(ctx, s.hub, c)
}
