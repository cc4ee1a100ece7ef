package guestvm

import (
	"context"

	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vsock"
)

// Parts makes the parts of a guest, each once.
type Parts interface {
	// Accelerator chooses what "auto" means, and says why.
	Accelerator(ctx context.Context, want string) (name, reason string, err error)
	// Link makes the link, which may use a socket at the path.
	Link(socket string) (Link, error)
	// Files makes the tree of shared files in dir, which is made.
	Files(dir string) (Files, error)
	// Serve starts the server of the files at a socket; ctx bounds the start.
	Serve(ctx context.Context, files Files, socket string) (Server, error)
	// Machine prepares the machine.
	Machine(spec vmm.Spec) (Machine, error)
}

// Machine is a virtual machine; its contract is that of [vmm.Machine], which has
// the conformance suite.
type Machine interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Done() <-chan struct{}
	Err() error
	Pids() []process.ID
	ConsoleTail() string
}

// Link reaches the ports of the guest: the vsock device of this process, or one of
// the VMM's own with a unix socket in front (hybrid vsock).
type Link interface {
	vsock.Dialer
	// Attach writes the link into the machine's description.
	Attach(spec *vmm.Spec)
	// Run serves until the machine hangs up (nil), something breaks, or Close.
	Run(ctx context.Context) error
	// Close ends Run and every connection. It is idempotent.
	Close() error
}

// Files is the tree of files that the guest sees. Each method returns a path in
// the guest, below api.GuestShare, and how to take it away again.
type Files interface {
	// RootfsTarget and BindTarget say where on the host the next AddRootfs or
	// AddBind with the same arguments will mount.
	RootfsTarget(container string) string
	BindTarget(container string, n int, source string) string
	AddRootfs(container, source string, readonly bool) (guestPath string, undo func() error, err error)
	AddBind(container string, n int, source string, readonly, recursive bool) (guestPath string, undo func() error, err error)
	// RemoveContainer takes away all of a container's, and forgets it.
	RemoveContainer(container string) error
	// Close takes away everything.
	Close() error
}

// Server is the file server's process.
type Server interface {
	ID() process.ID
	// Done is closed when it has ended; Err says why, after that.
	Done() <-chan struct{}
	Err() error
	// Stop ends it; it is idempotent.
	Stop(ctx context.Context) error
}
