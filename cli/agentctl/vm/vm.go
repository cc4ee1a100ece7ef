// Package vm boots a virtual machine with an agent for one session of
// kata-agent-ctl: the guest that a pod gets (host/guestvm), without the pod: no
// state on disk, no containers, nobody who asks whether it is well.
//
// Life cycle: Boot returns when the agent listens; Dial connects to it; Stop
// ends the machine and removes every trace. The machine dies with the process.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/journal"
	"kata/host/undo"
)

// Config says what to boot.
type Config struct {
	// Guest says what to boot; Boot sets ID and Dir of its machine. A share of
	// files needs a private mount namespace (Isolate).
	Guest guestvm.Config
	// Parts are what the guest is made of.
	Parts guestvm.Parts
	// Timeout bounds the boot, until the agent listens.
	Timeout time.Duration
}

// VM is a running machine.
type VM struct {
	guest *guestvm.VM
	stack *undo.Stack
}

// Boot boots a machine and waits until its agent listens. The time-out
// bounds it, and ctx. On failure nothing is left, and the error carries
// the console's last lines.
func Boot(ctx context.Context, cfg Config) (*VM, error) {
	v := &VM{stack: undo.New(new(undo.Memory))}
	if err := v.boot(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("boot a machine: %w", err), v.Stop(context.WithoutCancel(ctx)))
	}
	return v, nil
}

func (v *VM) boot(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("the agent was not up within %s", cfg.Timeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "kata-agent-ctl-")
	if err != nil {
		return err
	}
	v.stack.Push("the machine's folder", undo.Last, func(ctx context.Context) error {
		return journal.Release(ctx, journal.Directory{Path: dir}) // never through a mount
	})
	guest := cfg.Guest
	guest.Machine.ID, guest.Machine.Dir = "agent-ctl", dir
	v.guest, err = guestvm.Boot(ctx, guest, cfg.Parts, v.stack)
	return err
}

// Address names the agent, for people.
func (v *VM) Address() string {
	return fmt.Sprintf("vsock://%d:%d (our own machine)", api.GuestCID, api.PortAgent)
}

// Dial connects to the agent.
func (v *VM) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := v.guest.Dial(ctx, api.PortAgent)
	if err != nil {
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	return conn, nil
}

// Files returns what the guest shares with the host; nil without a share.
func (v *VM) Files() guestvm.Files { return v.guest.Files() }

// Stop ends the machine and releases all, in reverse order. ctx bounds the
// orderly part. It may be called again until it succeeds; what cannot be released
// keeps the files from being removed that may still be mounted.
func (v *VM) Stop(ctx context.Context) error { return v.stack.Run(ctx) }
