package guestvm

import (
	"context"
	"fmt"
	"log/slog"
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

// FromConfig returns what the operator's configuration says about guests. ID, Dir
// and ConsoleFile of the machine are the caller's to set.
func FromConfig(c *config.Config, log *slog.Logger) Config {
	h := &c.Hypervisor
	return Config{
		Machine: vmm.Spec{
			VCPUs: h.VCPUs, MemoryMiB: int(h.MemoryMiB), Kernel: h.Kernel, Initrd: h.Initrd, Image: h.Image,
			KernelParams: strings.Fields(h.KernelParams), Debug: h.Debug,
			HotplugDevices: int(h.PCIeRootPorts),
		},
		Accel: h.Accel, ShareQueue: int(h.VirtioFSQueueSize),
		AgentDebug: c.Agent.Debug, DebugConsole: c.Agent.DebugConsole,
		StopTimeout: h.StopTimeout, Log: log,
	}
}

// Host makes real parts: QEMU, the vsock device of this process, virtiofsd.
type Host struct {
	QEMU    qemu.Config
	Share   share.DaemonConfig // Socket, SharedDir and Log are set by Host
	Spawner *process.Spawner
	Log     *slog.Logger
}

// HostFromConfig returns the parts that the operator's configuration names.
func HostFromConfig(c *config.Config, spawner *process.Spawner, log *slog.Logger) *Host {
	h := &c.Hypervisor
	parts := &Host{
		QEMU: qemu.Config{
			Path: h.Path, MachineType: h.MachineType, MachineAccelerators: h.MachineAccelerators,
			CPUFeatures: h.CPUFeatures, Sandbox: h.SeccompSandbox,
		},
		Share:   share.DaemonConfig{Paths: []string{h.VirtioFSDaemon}, Cache: h.VirtioFSCache, ExtraArgs: h.VirtioFSExtraArgs},
		Spawner: spawner, Log: log,
	}
	if h.Firmware != "" {
		parts.QEMU.Firmware = []string{h.Firmware}
	}
	return parts
}

// Accelerator implements [Parts] (host/vmm/accel).
func (h *Host) Accelerator(ctx context.Context, want string) (name, reason string, err error) {
	verdict, err := accel.Probe(ctx, want)
	return verdict.Name, verdict.Reason, err
}

// Link implements [Parts].
func (h *Host) Link(socket string) (Link, error) {
	device, err := vsock.New(vsock.Config{Socket: socket, GuestCID: api.GuestCID, Log: h.Log})
	if err != nil {
		return nil, err
	}
	return &deviceLink{device, socket}, nil
}

// deviceLink is the vsock device, which QEMU attaches to by vhost-user.
type deviceLink struct {
	*vsock.Device
	socket string
}

func (l *deviceLink) Attach(spec *vmm.Spec) { spec.Vsock = &vmm.Vsock{Socket: l.socket} }

// Files implements [Parts].
func (h *Host) Files(dir string) (Files, error) {
	tree, err := share.NewTree(dir)
	if err != nil {
		return nil, err
	}
	return tree, nil
}

// Serve implements [Parts].
func (h *Host) Serve(ctx context.Context, files Files, socket string) (Server, error) {
	tree, ok := files.(*share.Tree)
	if !ok {
		return nil, fmt.Errorf("virtiofsd serves no %T", files)
	}
	cfg := h.Share
	cfg.Socket, cfg.SharedDir, cfg.Log = socket, tree.Export(), h.Log
	daemon, err := share.StartDaemon(ctx, cfg, h.Spawner)
	if err != nil {
		return nil, err
	}
	return daemon, nil
}

// Machine implements [Parts].
func (h *Host) Machine(spec vmm.Spec) (Machine, error) {
	machine, err := qemu.New(spec, h.QEMU, h.Spawner, h.Log)
	if err != nil {
		return nil, err
	}
	return machine, nil
}
