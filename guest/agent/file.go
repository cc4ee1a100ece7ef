package agent

import "kata/api/agentpb"

// registerFiles registers the calls that bring files in.
func (s *Service) registerFiles(agent agentpb.AgentServiceRegistrar) {
	// CopyFile
}
