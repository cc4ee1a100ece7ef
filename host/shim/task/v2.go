package task

import (
	"context"

	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/emptypb"
)

// serviceV2 is Service by the message types of containerd.task.v2, which have
// the fields of version 3.
type serviceV2 struct{ s *Service }

func (v serviceV2) State(ctx context.Context, r *v2.StateRequest) (*v2.StateResponse, error) {
	resp, err := answer(ctx, &v3.StateRequest{ID: r.ID, ExecID: r.ExecID}, v.s.State)
	if err != nil {
		return nil, err
	}
	return &v2.StateResponse{
		ID: resp.ID, Bundle: resp.Bundle, Pid: resp.Pid, Status: resp.Status, Stdin: resp.Stdin, Stdout: resp.Stdout,
		Stderr: resp.Stderr, Terminal: resp.Terminal, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt, ExecID: resp.ExecID,
	}, nil
}

func (v serviceV2) Create(ctx context.Context, r *v2.CreateTaskRequest) (*v2.CreateTaskResponse, error) {
	resp, err := answer(ctx, &v3.CreateTaskRequest{
		ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Terminal: r.Terminal, Stdin: r.Stdin,
		Stdout: r.Stdout, Stderr: r.Stderr, Checkpoint: r.Checkpoint, ParentCheckpoint: r.ParentCheckpoint, Options: r.Options,
	}, v.s.Create)
	if err != nil {
		return nil, err
	}
	return &v2.CreateTaskResponse{Pid: resp.Pid}, nil
}

func (v serviceV2) Start(ctx context.Context, r *v2.StartRequest) (*v2.StartResponse, error) {
	resp, err := answer(ctx, &v3.StartRequest{ID: r.ID, ExecID: r.ExecID}, v.s.Start)
	if err != nil {
		return nil, err
	}
	return &v2.StartResponse{Pid: resp.Pid}, nil
}

func (v serviceV2) Delete(ctx context.Context, r *v2.DeleteRequest) (*v2.DeleteResponse, error) {
	resp, err := answer(ctx, &v3.DeleteRequest{ID: r.ID, ExecID: r.ExecID}, v.s.Delete)
	if err != nil {
		return nil, err
	}
	return &v2.DeleteResponse{Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt}, nil
}

func (v serviceV2) Pids(ctx context.Context, r *v2.PidsRequest) (*v2.PidsResponse, error) {
	resp, err := answer(ctx, &v3.PidsRequest{ID: r.ID}, v.s.Pids)
	if err != nil {
		return nil, err
	}
	return &v2.PidsResponse{Processes: resp.Processes}, nil
}

func (v serviceV2) Pause(ctx context.Context, r *v2.PauseRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.PauseRequest{ID: r.ID}, v.s.Pause)
}

func (v serviceV2) Resume(ctx context.Context, r *v2.ResumeRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.ResumeRequest{ID: r.ID}, v.s.Resume)
}

func (v serviceV2) Checkpoint(ctx context.Context, r *v2.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.CheckpointTaskRequest{ID: r.ID, Path: r.Path, Options: r.Options}, v.s.Checkpoint)
}

func (v serviceV2) Kill(ctx context.Context, r *v2.KillRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.KillRequest{ID: r.ID, ExecID: r.ExecID, Signal: r.Signal, All: r.All}, v.s.Kill)
}

func (v serviceV2) Exec(ctx context.Context, r *v2.ExecProcessRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.ExecProcessRequest{ID: r.ID, ExecID: r.ExecID, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Spec: r.Spec}, v.s.Exec)
}

func (v serviceV2) ResizePty(ctx context.Context, r *v2.ResizePtyRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.ResizePtyRequest{ID: r.ID, ExecID: r.ExecID, Width: r.Width, Height: r.Height}, v.s.ResizePty)
}

func (v serviceV2) CloseIO(ctx context.Context, r *v2.CloseIORequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.CloseIORequest{ID: r.ID, ExecID: r.ExecID, Stdin: r.Stdin}, v.s.CloseIO)
}

func (v serviceV2) Update(ctx context.Context, r *v2.UpdateTaskRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.UpdateTaskRequest{ID: r.ID, Resources: r.Resources, Annotations: r.Annotations}, v.s.Update)
}

func (v serviceV2) Wait(ctx context.Context, r *v2.WaitRequest) (*v2.WaitResponse, error) {
	resp, err := answer(ctx, &v3.WaitRequest{ID: r.ID, ExecID: r.ExecID}, v.s.Wait)
	if err != nil {
		return nil, err
	}
	return &v2.WaitResponse{ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt}, nil
}

func (v serviceV2) Stats(ctx context.Context, r *v2.StatsRequest) (*v2.StatsResponse, error) {
	resp, err := answer(ctx, &v3.StatsRequest{ID: r.ID}, v.s.Stats)
	if err != nil {
		return nil, err
	}
	return &v2.StatsResponse{Stats: resp.Stats}, nil
}

func (v serviceV2) Connect(ctx context.Context, r *v2.ConnectRequest) (*v2.ConnectResponse, error) {
	resp, err := answer(ctx, &v3.ConnectRequest{ID: r.ID}, v.s.Connect)
	if err != nil {
		return nil, err
	}
	return &v2.ConnectResponse{ShimPid: resp.ShimPid, TaskPid: resp.TaskPid, Version: resp.Version}, nil
}

func (v serviceV2) Shutdown(ctx context.Context, r *v2.ShutdownRequest) (*emptypb.Empty, error) {
	return answer(ctx, &v3.ShutdownRequest{ID: r.ID, Now: r.Now}, v.s.Shutdown)
}
