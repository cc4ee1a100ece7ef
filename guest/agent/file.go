package agent

import (
	"context"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/guest/storage/sharedfile"
)

// registerFiles registers the calls that bring files in.
func (s *Service) registerFiles(agent agentpb.AgentServiceRegistrar) {
	agent.CopyFile(s.copyFile)
}

func (s *Service) copyFile(ctx context.Context, req *agentpb.CopyFileRequest) (*agentpb.Empty, error) {
	err := s.files.Put(ctx, ttrpc.ConnectionOf(ctx), sharedfile.Piece{
		Path: req.Path, Size: req.FileSize, Mode: req.FileMode, DirMode: req.DirMode,
		UID: req.Uid, GID: req.Gid, Offset: req.Offset, Data: req.Data,
	})
	return empty(err)
}
