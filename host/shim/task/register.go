package task

import (
	"context"

	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// Register serves the service on server as containerd.task.v2.Task, which every
// containerd from 1.6 on speaks, and as containerd.task.v3.Task.
func (s *Service) Register(server *ttrpc.Server) {
	v2.RegisterTTRPCTaskService(server, serviceV2{s})
	v3.RegisterTTRPCTaskService(server, serviceV3{s})
}

// answer gives the result of a method the form of an answer.
func answer[Req, Resp any](ctx context.Context, r Req, method func(context.Context, Req) (Resp, error)) (Resp, error) {
	resp, err := method(ctx, r)
	return resp, toStatus(err)
}
