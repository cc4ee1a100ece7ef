package sandbox

import (
	"context"
	"errors"
	"fmt"
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

// Names in the sandbox's folder, short because a unix socket address is.
const (
	vsockSocket = "vsock.sock"
	shareSocket = "fs.sock"
	shareDir    = "shared"
)

// boot brings up the sandbox's parts, each with its release on the undo stack,
// and returns when the guest is ready for containers.
func (s *Sandbox) boot(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Agent.DialTimeout,
		fmt.Errorf("the guest was not up within %s", s.cfg.Agent.DialTimeout))
	defer cancel()
	verdict, err := accel.Probe(ctx, s.cfg.Hypervisor.Accel)
	if err != nil {
		return fmt.Errorf("choose the accelerator: %w", err)
	}
	s.log.Info("accelerator chosen", "accel", verdict.Name, "reason", verdict.Reason)
	ready, err := s.startDevice()
	if err != nil {
		return err
	}
	if err := s.startShare(ctx, o.Spawner); err != nil {
		return err
	}
	if err := s.startMachine(ctx, verdict.Name, o.Spawner); err != nil {
		return err
	}
	if err := s.connectAgent(ctx, ready); err != nil {
		return err
	}
	s.log.Debug("agent answers")
	if err := s.agent.setUp(ctx, o.ID, hostname(o), s.cfg.Hypervisor.GuestHookPath); err != nil {
		return s.bootError(err)
	}
	s.log.Debug("guest is set up")
	return s.startAgentSocket()
}

func hostname(o Options) string {
	if o.Spec == nil {
		return ""
	}
	return o.Spec.Hostname
}

// startDevice serves the vsock device, and listens for the agent's readiness
// before there is a guest that could knock.
func (s *Sandbox) startDevice() (net.Listener, error) {
	device, err := vsock.New(vsock.Config{
		Socket: filepath.Join(s.store.dir, vsockSocket), GuestCID: api.GuestCID, Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("start the vsock device: %w", err)
	}
	s.device = device
	ended := make(chan struct{})
	s.undo.push("vsock device", func(context.Context) error {
		err := device.Close()
		<-ended
		return err
	})
	go func() {
		defer close(ended)
		if err := device.Run(context.Background()); err != nil {
			s.deviceFailed <- fmt.Errorf("vsock device: %w", err)
		}
	}()
	ready, err := device.Listen(api.PortReady)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return ready, nil
}

func (s *Sandbox) startShare(ctx context.Context, spawner *process.Spawner) error {
	dir := filepath.Join(s.store.dir, shareDir)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("create shared folder: %w", err)
	}
	tree, err := share.NewTree(dir)
	if err != nil {
		return fmt.Errorf("create shared folder: %w", err)
	}
	s.tree = tree
	s.undo.push("shared folder", func(context.Context) error { return tree.Close() })
	h := &s.cfg.Hypervisor
	daemon, err := share.StartDaemon(ctx, share.DaemonConfig{
		Paths: []string{h.VirtioFSDaemon}, Socket: filepath.Join(s.store.dir, shareSocket),
		SharedDir: tree.Export(), Cache: h.VirtioFSCache, ExtraArgs: h.VirtioFSExtraArgs, Log: s.log,
	}, spawner)
	if err != nil {
		return fmt.Errorf("start the file server: %w", err)
	}
	s.daemon = daemon
	s.undo.push("file server", daemon.Stop)
	return s.store.addProcess("virtiofsd", daemon.ID())
}

func (s *Sandbox) startMachine(ctx context.Context, accelerator string, spawner *process.Spawner) error {
	h := &s.cfg.Hypervisor
	machine, err := qemu.New(s.machineSpec(accelerator), qemuConfig(h), spawner, s.log)
	if err != nil {
		return fmt.Errorf("prepare the virtual machine: %w", err)
	}
	s.machine = machine
	s.undo.push("virtual machine", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.StopTimeout)
		defer cancel()
		return machine.Stop(ctx)
	})
	if err := machine.Start(ctx); err != nil {
		return fmt.Errorf("start the virtual machine: %w", err)
	}
	for _, id := range machine.Pids() {
		if err := s.store.addProcess("vmm", id); err != nil {
			return err
		}
	}
	return nil
}

func qemuConfig(h *config.Hypervisor) qemu.Config {
	cfg := qemu.Config{
		Path: h.Path, MachineType: h.MachineType, MachineAccelerators: h.MachineAccelerators,
		CPUFeatures: h.CPUFeatures, RootPorts: int(h.PCIeRootPorts),
	}
	if h.Firmware != "" {
		cfg.Firmware = []string{h.Firmware}
	}
	return cfg
}

func (s *Sandbox) machineSpec(accelerator string) vmm.Spec {
	h := &s.cfg.Hypervisor
	params := []string{fmt.Sprintf("agent.ready_vport=%d", api.PortReady)}
	if s.cfg.Agent.Debug {
		params = append(params, "agent.log=debug")
	}
	if s.cfg.Agent.DebugConsole {
		params = append(params, "agent.debug_console", fmt.Sprintf("agent.debug_console_vport=%d", api.PortConsole))
	}
	spec := vmm.Spec{
		ID: s.id, Dir: s.store.dir,
		VCPUs: h.VCPUs, MemoryMiB: int(h.MemoryMiB),
		Kernel: h.Kernel, Initrd: h.Initrd, Image: h.Image,
		KernelParams: append(params, strings.Fields(h.KernelParams)...),
		Accel:        accelerator,
		Vsock:        &vmm.Vsock{Socket: filepath.Join(s.store.dir, vsockSocket)},
		Shares: []vmm.Share{{
			Socket: filepath.Join(s.store.dir, shareSocket), Tag: api.ShareTag, QueueSize: int(h.VirtioFSQueueSize),
		}},
		Debug: h.Debug,
	}
	if h.Debug {
		spec.ConsoleFile = filepath.Join(s.store.dir, "console.log")
	}
	return spec
}

// connectAgent waits until the agent connects to the readiness port, which it
// does when it listens, and calls it. Nothing is polled: the guest's death, the
// file server's, and the deadline end the wait as well.
func (s *Sandbox) connectAgent(ctx context.Context, ready net.Listener) error {
	accepted := make(chan error, 1)
	go func() {
		conn, err := ready.Accept()
		if err == nil {
			_ = conn.Close()
		}
		accepted <- err
	}()
	var err error
	select {
	case err = <-accepted:
		if err != nil { // the device is gone because the machine is; its word says more
			err = s.agentLost()
		}
	case <-s.machine.Done():
		err = errors.New("the virtual machine ended before its agent was up")
	case <-s.daemon.Done():
		err = fmt.Errorf("file server of the sandbox ended: %w", s.daemon.Err())
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = ready.Close()
	if err != nil {
		return s.bootError(fmt.Errorf("wait for the agent: %w", err))
	}
	conn, err := s.device.Dial(ctx, api.PortAgent)
	if err != nil {
		return s.bootError(fmt.Errorf("connect to the agent: %w", err))
	}
	s.agent = newAgentConn(conn)
	s.undo.push("agent connection", func(context.Context) error { return s.agent.client.Close() })
	return nil
}

// bootError says that the boot failed, with the machine's own words.
func (s *Sandbox) bootError(err error) error {
	return fmt.Errorf("boot the sandbox: %w", s.withDeath(err))
}
