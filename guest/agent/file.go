package agent

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

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
	if err != nil {
		return nil, copied(err)
	}
	return &agentpb.Empty{}, nil
}

// copied gives an error of package sharedfile its code.
func copied(err error) error {
	for _, kind := range [...]struct {
		err  error
		code ttrpc.Code
	}{
		{unix.EROFS, ttrpc.FailedPrecondition},
		{unix.ENOSPC, ttrpc.ResourceExhausted},
		{unix.EDQUOT, ttrpc.ResourceExhausted},
		{unix.ENAMETOOLONG, ttrpc.InvalidArgument},
	} {
		if errors.Is(err, kind.err) {
			return ttrpc.Errorf(kind.code, "%w", err)
		}
	}
	return err
}
