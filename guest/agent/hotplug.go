package agent

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/fault"
	"kata/guest/machine/device"
	"kata/guest/machine/hotplug"
	"kata/lib/fmt"
)

// registerHotplug registers the calls about CPUs, memory and swap that come at run time.
func (s *Service) registerHotplug(agent agentpb.AgentServiceRegistrar) {
	agent.OnlineCPUMem(s.onlineCPUMem)
	agent.MemHotplugByProbe(s.memHotplugByProbe)
	agent.AddSwap(s.addSwap)
	agent.AddSwapPath(s.addSwapPath)
}

// onlineCPUMem answers when everything is online whether it is asked to wait or
// not, as upstream's agent does: its hosts never ask and rely on it.
func (s *Service) onlineCPUMem(ctx context.Context, req *agentpb.OnlineCPUMemRequest) (*agentpb.Empty, error) {
	if err := s.needInit("bring CPUs and memory online"); err != nil {
		return nil, err
	}
	if req.NbCpus != 0 {
		if err := s.machine.OnlineCPUs(ctx, int(req.NbCpus)); err != nil {
			return nil, fmt.Errorf("nb_cpus %d: %w", req.NbCpus, err)
		}
		s.cfg.Sandbox.RefitCPUs()
	}
	if req.CpuOnly {
		return &agentpb.Empty{}, nil
	}
	return empty(s.machine.OnlineMemory(ctx))
}

// maxProbes is more memory blocks than one call can have a reason to name.
const maxProbes = 1024

func (s *Service) memHotplugByProbe(_ context.Context, req *agentpb.MemHotplugByProbeRequest) (*agentpb.Empty, error) {
	if n := len(req.MemHotplugProbeAddr); n == 0 || n > maxProbes {
		return nil, invalid("memHotplugProbeAddr", n, "addresses: use 1 to 1024")
	}
	if err := s.needInit("announce memory"); err != nil {
		return nil, err
	}
	if err := s.machine.ProbeMemory(req.MemHotplugProbeAddr); err != nil {
		return nil, fmt.Errorf("memHotplugProbeAddr: %w", err)
	}
	return &agentpb.Empty{}, nil
}

func (s *Service) addSwap(ctx context.Context, req *agentpb.AddSwapRequest) (*agentpb.Empty, error) {
	path, err := device.NewPCIPath(req.PCIPath...)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Field: fmt.Sprintf("PCIPath %v", req.PCIPath), Cause: err}
	}
	if err := s.needInit("add swap"); err != nil {
		return nil, err
	}
	block, err := s.cfg.Devices.BlockAt(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("PCIPath %s: %w", path.String(), err)
	}
	return empty(hotplug.Swap(block.Path))
}

func (s *Service) addSwapPath(_ context.Context, req *agentpb.AddSwapPathRequest) (*agentpb.Empty, error) {
	if err := checkPath("path", req.Path); err != nil {
		return nil, err
	}
	if err := s.needInit("add swap"); err != nil {
		return nil, err
	}
	return empty(hotplug.Swap(req.Path))
}

// checkPath refuses what is no absolute path.
func checkPath(field, path string) error {
	switch {
	case path == "":
		return invalid(field, path, "is missing")
	case len(path) >= unix.PathMax:
		return invalid(field, len(path), "bytes long is too long")
	case !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0:
		return invalid(field, path, "is not an absolute path")
	}
	return nil
}
