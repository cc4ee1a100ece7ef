package agent

import "kata/api/agentpb"

// registerHotplug registers the calls about CPUs, memory and swap that come at run time.
func (s *Service) registerHotplug(agent agentpb.AgentServiceRegistrar) {
	// OnlineCPUMem MemHotplugByProbe AddSwap AddSwapPath
}
