// Package vm boots a virtual machine with an agent for one session of
// kata-agent-ctl. It is what a pod's sandbox (host/sandbox) boots, without the
// pod: no state on disk, no containers, nobody who asks whether it is well.
//
// Life cycle: Boot returns when the agent listens; Dial connects to it; Stop
// ends the machine and removes every trace. The machine dies with the process.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"kata/api"
	"kata/host/config"
	"kata/host/process"
	"kata/host/share"
	"kata/host/vmm"
	"kata/host/vmm/accel"
	"kata/host/vmm/qemu"
	"kata/host/vsock"
)

// Config says what to boot.
type Config struct {
	// Runtime holds the values of configuration.toml, checked.
	Runtime *config.Config
	// Share attaches a virtio-fs share, for files of containers. It needs a
	// private mount namespace (Isolate).
	Share bool
	// Debug makes the agent log at debug level.
	Debug   bool
	Spawner *process.Spawner
	Log     *slog.Logger
}

// VM is a running machine.
type VM struct {
	cfg     Config
	dir     string
	device  *vsock.Device
	tree    *share.Tree
	daemon  *share.Daemon
	machine vmm.Machine
	release []step
}

// step gives back what Boot acquired.
type step struct {
	what string
	run  func(context.Context) error
}

// Boot boots a machine and waits until its agent listens. The configured dial
// timeout bounds it, and ctx. On failure nothing is left, and the error carries
// the console's last lines.
func Boot(ctx context.Context, cfg Config) (*VM, error) {
	limit := cfg.Runtime.Agent.DialTimeout
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the agent was not up within %s", limit))
	defer cancel()
	v := &VM{cfg: cfg}
	if err := v.boot(bounded); err != nil {
		return nil, errors.Join(fmt.Errorf("boot a machine: %w", err), v.Stop(context.WithoutCancel(ctx)))
	}
	return v, nil
}

func (v *VM) boot(ctx context.Context) error {
	verdict, err := accel.Probe(ctx, v.cfg.Runtime.Hypervisor.Accel)
	if err != nil {
		return fmt.Errorf("choose the accelerator: %w", err)
	}
	v.cfg.Log.Info("accelerator chosen", "accel", verdict.Name, "reason", verdict.Reason)
	if v.dir, err = os.MkdirTemp("", "kata-agent-ctl-"); err != nil {
		return err
	}
	v.push("its folder", func(context.Context) error { return os.RemoveAll(v.dir) })
	ready, err := v.startDevice()
	if err != nil {
		return err
	}
	if v.cfg.Share {
		if err := v.startShare(ctx); err != nil {
			return err
		}
	}
	h := &v.cfg.Runtime.Hypervisor
	v.machine, err = qemu.New(v.spec(verdict.Name), qemu.Config{Path: h.Path}, v.cfg.Spawner, v.cfg.Log)
	if err != nil {
		return err
	}
	v.push("the machine", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.StopTimeout)
		defer cancel()
		return v.machine.Stop(ctx)
	})
	if err := v.machine.Start(ctx); err != nil {
		return err
	}
	return v.await(ctx, ready)
}

func (v *VM) push(what string, run func(context.Context) error) {
	v.release = append(v.release, step{what, run})
}

// startDevice serves the vsock device and listens for the agent's readiness.
func (v *VM) startDevice() (net.Listener, error) {
	device, err := vsock.New(vsock.Config{Socket: v.path("vsock.sock"), GuestCID: api.GuestCID, Log: v.cfg.Log})
	if err != nil {
		return nil, err
	}
	v.device = device
	ended := make(chan struct{})
	v.push("the vsock device", func(context.Context) error {
		err := device.Close()
		<-ended
		return err
	})
	go func() {
		defer close(ended)
		if err := device.Run(context.Background()); err != nil {
			v.cfg.Log.Debug("vsock device ended", "error", err)
		}
	}()
	return device.Listen(api.PortReady)
}

func (v *VM) startShare(ctx context.Context) error {
	tree, err := share.NewTree(v.path("shared"))
	if err != nil {
		return err
	}
	v.tree = tree
	v.push("the share", func(context.Context) error { return tree.Close() })
	h := &v.cfg.Runtime.Hypervisor
	v.daemon, err = share.StartDaemon(ctx, share.DaemonConfig{
		Paths: []string{h.VirtioFSDaemon}, Socket: v.path("fs.sock"), SharedDir: tree.Export(),
		Cache: h.VirtioFSCache, ExtraArgs: h.VirtioFSExtraArgs, Log: v.cfg.Log,
	}, v.cfg.Spawner)
	if err != nil {
		return err
	}
	v.push("the file server", v.daemon.Stop)
	return nil
}

func (v *VM) path(name string) string { return filepath.Join(v.dir, name) }

func (v *VM) spec(accelerator string) vmm.Spec {
	h := &v.cfg.Runtime.Hypervisor
	params := []string{fmt.Sprintf("agent.ready_vport=%d", api.PortReady)}
	if v.cfg.Debug {
		params = append(params, "agent.log=debug")
	}
	spec := vmm.Spec{
		ID: "agent-ctl", Dir: v.dir, VCPUs: h.VCPUs, MaxVCPUs: h.MaxVCPUs, MemoryMiB: int(h.MemoryMiB),
		Kernel: h.Kernel, Initrd: h.Initrd, Image: h.Image,
		KernelParams: append(params, strings.Fields(h.KernelParams)...),
		Accel:        accelerator, Debug: h.Debug,
		Vsock: &vmm.Vsock{Socket: v.path("vsock.sock")},
	}
	if v.cfg.Share {
		spec.Shares = []vmm.Share{{Socket: v.path("fs.sock"), Tag: api.ShareTag, QueueSize: int(h.VirtioFSQueueSize)}}
	}
	return spec
}

// await waits for the agent's knock, which says that it listens.
func (v *VM) await(ctx context.Context, ready net.Listener) error {
	knocked := make(chan error, 1)
	go func() {
		conn, err := ready.Accept()
		if err == nil {
			err = conn.Close()
		}
		knocked <- err
	}()
	var err error
	select {
	case err = <-knocked:
		if err != nil { // the device is gone because the machine is; its word says more
			err = v.death(ctx, err)
		}
	case <-v.machine.Done():
		err = v.death(ctx, nil)
	case <-ctx.Done():
		err = context.Cause(ctx)
		if tail := v.machine.ConsoleTail(); tail != "" {
			err = fmt.Errorf("%w; the console's last lines:\n%s", err, tail)
		}
	}
	return errors.Join(err, ready.Close())
}

// death says why the machine has ended; other is the error if it has not.
func (v *VM) death(ctx context.Context, other error) error {
	select {
	case <-v.machine.Done():
		return fmt.Errorf("it ended before its agent was up: %w", v.machine.Err())
	case <-ctx.Done():
		return other
	}
}

// Address names the agent, for people.
func (v *VM) Address() string {
	return fmt.Sprintf("vsock://%d:%d (our own machine)", api.GuestCID, api.PortAgent)
}

// Dial connects to the agent.
func (v *VM) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := v.device.Dial(ctx, api.PortAgent)
	if err != nil {
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	return conn, nil
}

// Tree returns what the guest shares with the host; nil without a share.
func (v *VM) Tree() *share.Tree { return v.tree }

// Stop ends the machine and releases all, in reverse order. ctx bounds the
// orderly part. A second call does nothing. What cannot be released keeps the
// steps behind it from removing files that may still be mounted.
func (v *VM) Stop(ctx context.Context) error {
	steps := v.release
	v.release = nil
	var failures []error
	for i := len(steps) - 1; i >= 0; i-- {
		if i == 0 && len(failures) > 0 {
			failures = append(failures, fmt.Errorf("%s is left", v.dir))
			break // something may be mounted in the folder
		}
		if err := steps[i].run(ctx); err != nil {
			failures = append(failures, fmt.Errorf("release %s: %w", steps[i].what, err))
		}
	}
	return errors.Join(failures...)
}
