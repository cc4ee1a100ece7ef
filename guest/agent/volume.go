package agent

import "kata/api/agentpb"

// registerVolumes registers the calls about what is mounted.
func (s *Service) registerVolumes(agent agentpb.AgentServiceRegistrar) {
	// UpdateEphemeralMounts GetVolumeStats ResizeVolume RemoveStaleVirtiofsShareMounts
}
