package agent

import "kata/api/agentpb"

// registerObservation registers the calls that tell what happens in the guest.
func (s *Service) registerObservation(agent agentpb.AgentServiceRegistrar) {
	// GetMetrics GetOOMEvent GetDiagnosticData
}
