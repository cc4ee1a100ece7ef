package task

import (
	"context"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/emptypb"
)

// serviceV3 is Service with errors in the form that ttRPC carries.
type serviceV3 struct{ s *Service }

func (v serviceV3) State(ctx context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	return answer(ctx, r, v.s.State)
}

func (v serviceV3) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	return answer(ctx, r, v.s.Create)
}

func (v serviceV3) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	return answer(ctx, r, v.s.Start)
}

func (v serviceV3) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	return answer(ctx, r, v.s.Delete)
}

func (v serviceV3) Pids(ctx context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	return answer(ctx, r, v.s.Pids)
}

func (v serviceV3) Pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Pause)
}

func (v serviceV3) Resume(ctx context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Resume)
}

func (v serviceV3) Checkpoint(ctx context.Context, r *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Checkpoint)
}

func (v serviceV3) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Kill)
}

func (v serviceV3) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Exec)
}

func (v serviceV3) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.ResizePty)
}

func (v serviceV3) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.CloseIO)
}

func (v serviceV3) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Update)
}

func (v serviceV3) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	return answer(ctx, r, v.s.Wait)
}

func (v serviceV3) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	return answer(ctx, r, v.s.Stats)
}

func (v serviceV3) Connect(ctx context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	return answer(ctx, r, v.s.Connect)
}

func (v serviceV3) Shutdown(ctx context.Context, r *api.ShutdownRequest) (*emptypb.Empty, error) {
	return answer(ctx, r, v.s.Shutdown)
}
