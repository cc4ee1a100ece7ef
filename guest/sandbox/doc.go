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
// that blocks; neither is taken while the other one is held. What takes
// time on a container runs in an operation (Container.begin); removal refuses
// new ones, cancels those that run and waits for them. So a container that is
// stuck delays nobody but those who ask for that container.
package sandbox

import (
	"errors"
	"time"
)

// Kinds of failure, for errors.Is. What else fails is an error of the kernel or
// of what was asked for, and says so.
var (
	// ErrNotFound: there is no sandbox, container or process of that name.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("already exists")
	// ErrState: it cannot be done to it in the state it is in.
	ErrState = errors.New("wrong state")
	// ErrLimit: there are as many as there may be.
	ErrLimit = errors.New("limit reached")
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid = errors.New("invalid")
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
