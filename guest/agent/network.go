package agent

import "kata/api/agentpb"

// registerNetwork registers the calls that set the pod's network up.
func (s *Service) registerNetwork(agent agentpb.AgentServiceRegistrar) {
	// UpdateInterface UpdateRoutes ListInterfaces ListRoutes AddARPNeighbors
}
