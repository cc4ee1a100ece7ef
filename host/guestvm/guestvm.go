// Package guestvm boots a guest: a virtual machine, the link to its agent
// (virtio-vsock) and, if wanted, the files that it shares with the host. Pods,
// kata-agent-ctl and tests boot theirs here.
//
// It puts the parts together and knows in which order they come and go. It does
// not know what they are: a [Machine] is a VMM's driver (host/vmm), a [Link] the
// vsock device in this process or a VMM's own (host/vsock), [Files] and [Server]
// the share (host/share). [Host] makes the real ones; a test may give others.
//
// Life cycle: [Boot] returns when the agent listens. What it acquires goes on the
// caller's stack (host/undo), whose Run ends the guest, in any state and also
// after a Boot that failed. Done is closed when a part has ended, and Err says
// which and why; Gone when the machine has, from when on nothing of the guest
// runs.
package guestvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kata/api"
	"kata/host/journal"
	"kata/host/process"
	"kata/host/share"
	"kata/host/undo"
	"kata/host/vmm"
)

// Names in a guest's folder, short because a unix socket's address is.
const (
	vsockSocket = "vsock.sock"
	shareSocket = "fs.sock"
	shareDir    = "shared"
)

// lastWord is how long a machine has to say why it ended when its connections
// have ended first.
const lastWord = 500 * time.Millisecond

// Config says what to boot.
type Config struct {
	// Machine describes the virtual machine but for what Boot adds: Accel, the
	// vsock device, the share, and the agent's kernel parameters, which come
	// before those given.
	Machine vmm.Spec
	// Accel is "auto", "kvm" or "tcg".
	Accel string
	// Share attaches the file share.
	Share bool
	// ShareQueue is the length of the share's request queue; 0 is the driver's
	// choice.
	ShareQueue int
	// AgentDebug makes the agent log at debug level; DebugConsole makes it serve
	// shells at api.PortConsole.
	AgentDebug, DebugConsole bool
	// StopTimeout bounds the machine's orderly end.
	StopTimeout time.Duration
	Log         *slog.Logger
}

// VM is a guest that runs, or has ended.
type VM struct {
	cfg     Config
	parts   Parts
	stack   *undo.Stack
	link    Link
	files   Files  // nil without a share
	server  Server // nil without a share
	machine Machine

	linkFailed chan error // receives at most once

	done   chan struct{}
	mu     sync.Mutex
	reason error // why done is closed
}

// Boot boots a guest and returns when its agent has connected to api.PortReady,
// which is when it listens. Nothing is polled: the end of any part and of ctx end
// the wait. Errors of a machine that has started carry what the VMM said and the
// console's last lines. On an error the caller runs the stack as after success.
func Boot(ctx context.Context, cfg Config, parts Parts, stack *undo.Stack) (*VM, error) {
	v := &VM{cfg: cfg, parts: parts, stack: stack, linkFailed: make(chan error, 1), done: make(chan struct{})}
	accel, reason, err := parts.Accelerator(ctx, cfg.Accel)
	if err != nil {
		return nil, fmt.Errorf("choose the accelerator: %w", err)
	}
	cfg.Log.Info("accelerator chosen", "accel", accel, "reason", reason)
	ready, err := v.startLink()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	if cfg.Share {
		if err := v.startShare(ctx); err != nil {
			return nil, err
		}
	}
	if err := v.startMachine(ctx, accel); err != nil {
		return nil, err
	}
	v.watch()
	if err := v.await(ctx, ready); err != nil {
		return nil, v.Explain(fmt.Errorf("wait for the agent: %w", err))
	}
	return v, nil
}

// startLink serves the link, and listens for the agent before there is a guest
// that could connect.
func (v *VM) startLink() (net.Listener, error) {
	socket := v.path(vsockSocket)
	if _, err := v.stack.Hold(journal.Socket{Path: socket}, undo.Plain); err != nil {
		return nil, err
	}
	link, err := v.parts.Link(socket)
	if err != nil {
		return nil, fmt.Errorf("start the vsock device: %w", err)
	}
	v.link = link
	ended := make(chan struct{})
	v.stack.Push("the vsock device", undo.Plain, func(context.Context) error {
		err := link.Close()
		<-ended
		return err
	})
	go func() {
		defer close(ended)
		if err := link.Run(context.Background()); err != nil {
			v.linkFailed <- fmt.Errorf("vsock device: %w", err)
		}
	}()
	ready, err := link.Listen(api.PortReady)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return ready, nil
}

// startShare makes the tree of files and serves it.
func (v *VM) startShare(ctx context.Context) error {
	dir := v.path(shareDir)
	for _, target := range share.MountPoints(dir) {
		entry, err := journal.NewMount(target)
		if err != nil {
			return err
		}
		if _, err := v.stack.Hold(entry, undo.UsedByGuest); err != nil {
			return err
		}
	}
	files, err := v.parts.Files(dir)
	if err != nil {
		return fmt.Errorf("make the share: %w", err)
	}
	v.files = files
	v.stack.Push("the share", undo.UsedByGuest, func(context.Context) error { return files.Close() })
	socket := v.path(shareSocket)
	if _, err := v.stack.Hold(journal.Socket{Path: socket}, undo.Plain); err != nil {
		return err
	}
	entry := journal.Process{Name: "virtiofsd"}
	held, err := v.stack.Hold(entry, undo.Plain)
	if err != nil {
		return err
	}
	server, err := v.parts.Serve(ctx, files, socket)
	if err != nil {
		return fmt.Errorf("start the file server: %w", err)
	}
	v.server = server
	v.stack.Push("the file server", undo.Plain, func(ctx context.Context) error {
		ctx, cancel := undo.Grace(ctx)
		defer cancel()
		return server.Stop(ctx)
	})
	entry.ID = server.ID()
	return held.Amend(entry)
}

func (v *VM) startMachine(ctx context.Context, accel string) error {
	entry := journal.Process{Name: "vmm", RunsGuest: true}
	held, err := v.stack.Hold(entry, undo.EndsGuest)
	if err != nil {
		return err
	}
	machine, err := v.parts.Machine(v.spec(accel))
	if err != nil {
		return fmt.Errorf("prepare the virtual machine: %w", err)
	}
	v.machine = machine
	v.stack.Push("the virtual machine", undo.Plain, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, v.cfg.StopTimeout)
		defer cancel()
		return machine.Stop(ctx)
	})
	if err := machine.Start(ctx); err != nil {
		return fmt.Errorf("start the virtual machine: %w", err)
	}
	return v.identify(held, machine.Pids())
}

// identify writes down the machine's processes, the VMM first.
func (v *VM) identify(held undo.Held, pids []process.ID) error {
	for n, id := range pids {
		entry := journal.Process{Name: "vmm", ID: id, RunsGuest: true}
		if n == 0 {
			if err := held.Amend(entry); err != nil {
				return err
			}
			continue
		}
		if _, err := v.stack.Hold(entry, undo.EndsGuest); err != nil {
			return err
		}
	}
	return nil
}

// spec completes the machine's description.
func (v *VM) spec(accel string) vmm.Spec {
	spec := v.cfg.Machine
	params := []string{fmt.Sprintf("agent.ready_vport=%d", api.PortReady)}
	if v.cfg.AgentDebug {
		params = append(params, "agent.log=debug")
	}
	if v.cfg.DebugConsole {
		params = append(params, "agent.debug_console", fmt.Sprintf("agent.debug_console_vport=%d", api.PortConsole))
	}
	spec.KernelParams = append(params, spec.KernelParams...)
	spec.Accel = accel
	v.link.Attach(&spec)
	if v.cfg.Share {
		spec.Shares = append(spec.Shares, vmm.Share{Socket: v.path(shareSocket), Tag: api.ShareTag, QueueSize: v.cfg.ShareQueue})
	}
	return spec
}

func (v *VM) path(name string) string { return filepath.Join(v.cfg.Machine.Dir, name) }

// watch closes done when a part ends. It ends with the machine at the latest.
func (v *VM) watch() {
	quit, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	v.stack.Push("the watch of the guest", undo.Plain, func(context.Context) error {
		once.Do(func() { close(quit) })
		<-ended
		return nil
	})
	var served <-chan struct{}
	if v.server != nil {
		served = v.server.Done()
	}
	go func() {
		defer close(ended)
		var reason error
		select {
		case <-quit:
			return
		case reason = <-v.linkFailed:
		case <-served:
			reason = fmt.Errorf("file server of the sandbox ended: %w", v.server.Err())
		case <-v.machine.Done():
			reason = errors.New("the virtual machine ended")
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.reason = reason
		close(v.done)
	}()
}

// await waits until the agent connects.
func (v *VM) await(ctx context.Context, ready net.Listener) error {
	accepted := make(chan error, 1)
	go func() {
		conn, err := ready.Accept()
		if err == nil {
			_ = conn.Close()
		}
		accepted <- err
	}()
	var err error
	pending := true
	select {
	case err = <-accepted:
		pending = false
		if err != nil { // the link is gone because the machine is; its word says more
			err = v.Lost()
		}
	case <-v.done:
		err = v.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	closed := ready.Close()
	if pending {
		<-accepted
	}
	if err != nil {
		return err
	}
	return closed
}

// Dial connects to a port of the guest (host/vsock, Dialer).
func (v *VM) Dial(ctx context.Context, port uint32) (net.Conn, error) { return v.link.Dial(ctx, port) }

// Listen accepts connections of the guest to a port of the host.
func (v *VM) Listen(port uint32) (net.Listener, error) { return v.link.Listen(port) }

// Files returns what the guest shares with the host; nil without a share.
func (v *VM) Files() Files { return v.files }

// Machine returns the machine, to look at: the stack ends it.
func (v *VM) Machine() Machine { return v.machine }

// Done is closed when a part of the guest has ended, other than by its stack.
func (v *VM) Done() <-chan struct{} { return v.done }

// Err says why Done is closed; nil before.
func (v *VM) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reason
}

// Gone is closed when the machine has ended: nothing of the guest runs any more.
func (v *VM) Gone() <-chan struct{} { return v.machine.Done() }

// Kill ends the machine at once. The stack does the rest.
func (v *VM) Kill() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no time for an orderly end
	return v.machine.Stop(ctx)
}

// Lost says why a connection to the agent has ended: a machine that ends takes the
// connection down first, and says more about why.
func (v *VM) Lost() error {
	select {
	case <-v.done:
		return v.Err()
	case <-time.After(lastWord):
		return errors.New("the agent closed its connection")
	}
}

// Explain adds to an error what the machine says about its end, or else what the
// guest has last written on its console.
func (v *VM) Explain(err error) error {
	select {
	case <-v.machine.Done():
		if death := v.machine.Err(); death != nil {
			return fmt.Errorf("%w: %w", err, death)
		}
	default:
	}
	if tail := strings.TrimSpace(v.machine.ConsoleTail()); tail != "" {
		return fmt.Errorf("%w; the console's last lines: %s", err, tail)
	}
	return fmt.Errorf("%w; the console is empty", err)
}
