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
func FromConfig(m config.Machine, d config.Driver, f config.FileShare, a config.Agent, log *slog.Logger) Config {
	return Config{
		Machine: vmm.Spec{
			VCPUs: m.VCPUs, MemoryMiB: int(m.MemoryMiB), Kernel: m.Kernel, Initrd: m.Initrd, Image: m.Image,
			KernelParams: strings.Fields(m.KernelParams), Debug: d.Debug,
			HotplugDevices: d.PCIeRootPorts,
		},
		Accel: d.Accel, ShareQueue: int(f.QueueSize),
		AgentDebug: a.Debug, DebugConsole: a.DebugConsole,
		StopTimeout: d.StopTimeout, Log: log,
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
func HostFromConfig(d config.Driver, f config.FileShare, spawner *process.Spawner, log *slog.Logger) *Host {
	parts := &Host{
		QEMU: qemu.Config{
			Path: d.Path, MachineType: d.MachineType, MachineAccelerators: d.MachineAccelerators,
			CPUFeatures: d.CPUFeatures, Sandbox: d.SeccompSandbox,
		},
		Share:   share.DaemonConfig{Paths: []string{f.Daemon}, Cache: f.Cache, ExtraArgs: f.ExtraArgs},
		Spawner: spawner, Log: log,
	}
	if d.Firmware != "" {
		parts.QEMU.Firmware = []string{d.Firmware}
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
