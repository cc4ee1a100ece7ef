package agent

import "kata/api/agentpb"

// registerIPTables registers the calls that read and write the pod's packet filter.
func (s *Service) registerIPTables(agent agentpb.AgentServiceRegistrar) {
	// GetIPTables SetIPTables
}
