// Package sandbox is the pod in the guest: which containers and processes there
// are, what belongs to each (storages, streams, cgroup, namespaces), and in
// which order it is made and released.
//
// It stands between the calls of the API (package agent) and the container
// runtime (package container): it knows names and life cycles, while neither
// messages on the wire nor namespaces are its business.
//
// # Life cycle
//
// New, Create once, any number of containers, Destroy. A container is added with
// everything it needs or not at all, started once, and removed with everything
// it had. Its execs come and go; the exit of one is kept until somebody has asked
// for it, and for a while longer.
//
// # Locks
//
// Sandbox.mu and Container.mu guard fields and are never held across anything
// that blocks; neither is taken while the other one is held. So a container that
// is stuck delays nobody but those who ask for that container.
//
// # The gate
//
// Every call on a container is an operation (Container.begin, Container.With),
// the short ones too. Removal refuses new operations, cancels those that run and
// waits for them, and for every goroutine of the container: nothing uses what it
// releases. A container whose namespace or files another one is to share is held
// by an operation until that one has been created. To wait for an exit is no
// operation: it uses nothing, and an exit is told while the container is being
// removed.
//
// # Removal
//
// A removal runs in the background, owned by the sandbox, and its caller waits for
// it for at most ten seconds: a process in an uninterruptible sleep (state D)
// cannot be killed before the kernel lets go of it. The answer then is an error
// of kind ErrState that says which processes are left, not success: the host
// must not take a root file system away that they may still use. The removal goes
// on, is repeated after a failure, and the container's ID stays taken until it is
// done. A creation that failed is cleaned up the same way.
package sandbox

import (
	"time"

	"kata/guest/fault"
)

// Kinds of failure, for errors.Is. What else fails is an error of the kernel or
// of what was asked for, and says so.
var (
	// ErrNotFound: there is no sandbox, container or process of that name.
	ErrNotFound error = fault.NotFound
	// ErrExists: the name is taken.
	ErrExists error = fault.Exists
	// ErrState: it cannot be done to it in the state it is in.
	ErrState error = fault.State
	// ErrLimit: there are as many as there may be.
	ErrLimit error = fault.Limit
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid error = fault.Invalid
)

// Bounds of what one guest holds.
const (
	// MaxContainers is the number of containers.
	MaxContainers = 1024
	// MaxProcesses is the number of processes of one container that are
	// remembered, execs that have exited included.
	MaxProcesses = 1024
	// keepExited is the number of exited processes of a container that stay
	// known after somebody has waited for them.
	keepExited = 32
	// streamTimeout bounds the wait for the stream connections of a process,
	// which the host opens before it asks for the process.
	streamTimeout = 10 * time.Second
)
