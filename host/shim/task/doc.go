// Package task is containerd's task service (containerd.task.v2 and v3) for the
// containers of one pod, on top of a sandbox that runs them.
//
// It holds who exists and in which state, serialises what must not overlap,
// keeps events in order, and answers with containerd's errors. It does not boot
// a VM, move a byte or clean up after a crash: that is what Sandbox is for.
//
// Life cycle: New; Register on a ttRPC server; the first Create boots the
// sandbox, the last Delete stops it. Done tells when the process may end;
// Close ends everything.
//
// # Locks
//
// Nothing blocks while Service.mu or process.mu is held: whoever asks for a
// state is answered while a VM boots. Operations that change a process take its
// ops lock, which a request waits for no longer than its context lasts, and
// Service.pod is the same for the sandbox. The order is process.ops,
// Service.pod, process.starting, Service.mu, process.mu.
package task

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"kata/api/agentpb"
	"kata/host/pod"
	"kata/host/stdio"
)

// Sandbox runs the containers of the pod. host/sandbox is the real one.
type Sandbox interface {
	// CreateContainer leaves a container whose process waits for Start, or
	// nothing at all.
	CreateContainer(ctx context.Context, r ContainerRequest) (Container, error)
	// Done is closed when the sandbox has died or was stopped; Err then tells
	// why it died.
	Done() <-chan struct{}
	Err() error
	// Stop releases everything. It may be called again until it returns nil,
	// and after that too.
	Stop(ctx context.Context) error
}

// ContainerRequest is what a container is made of.
type ContainerRequest struct {
	ID     string
	Bundle string
	Rootfs []Mount
	Spec   *specs.Spec
	Stdio  stdio.Config
}

// Mount is one step of a container's root file system, as containerd gives it.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// Container is one container of the sandbox.
type Container interface {
	Init() Process
	// Exec registers a process; it runs once it is started.
	Exec(ctx context.Context, execID string, spec *specs.Process, io stdio.Config) (Process, error)
	// Kill signals every process.
	Kill(ctx context.Context, sig uint32) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Processes counts the processes that run in the container.
	Processes(ctx context.Context) (int, error)
	Stats(ctx context.Context) (*agentpb.StatsContainerResponse, error)
	Update(ctx context.Context, r *specs.LinuxResources) error
	// Delete removes the container. It may be called again until it returns
	// nil, and after that too.
	Delete(ctx context.Context) error
}

// Process is a container's first process or an exec.
type Process interface {
	Start(ctx context.Context) error
	// PID is that of the process on the host that stands for this one: of a
	// container's first process from the start, of an exec once it was started,
	// else 0. It ends before Done is closed.
	PID() int
	Signal(ctx context.Context, sig uint32) error
	Resize(ctx context.Context, width, height uint32) error
	CloseStdin(ctx context.Context) error
	// Done is closed as soon as the exit is known, whatever becomes of the
	// output; Drained once that is copied and containerd's ends are closed.
	Done() <-chan struct{}
	Exit() Exit
	Drained() <-chan struct{}
	// Copied counts the bytes of output that have been copied so far.
	Copied() uint64
	// Delete releases what an exec holds.
	Delete(ctx context.Context) error
}

// Exit is how a process ended.
type Exit struct {
	// Status is the exit code, or 128 plus the number of the fatal signal.
	Status uint32
	At     time.Time
}

// BootRequest asks for a sandbox.
type BootRequest struct {
	// ID and Bundle are those of the pod's first container.
	ID, Bundle string
	// Pod is what the bundle says about the pod.
	Pod pod.Spec
	// ConfigPath is the configuration that the request's options name, if any.
	ConfigPath string
	// OOM is to be told each time a process of a container was killed for want
	// of memory, before the exit that follows from it is known.
	OOM func(containerID string)
}

// Publish queues an event for containerd; it does not block.
type Publish func(topic string, event proto.Message)
