package task

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Pause freezes a running container.
func (s *Service) Pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	p := t.first
	if err := p.ops.acquire(ctx); err != nil {
		return nil, err
	}
	defer p.ops.release()
	if err := p.do(pause); err != nil {
		return nil, err
	}
	ctx, cancel := firmly(ctx)
	defer cancel()
	if err := t.container.Pause(ctx); err != nil {
		_ = p.do(thawed) // unless it has ended
		return nil, fmt.Errorf("pause %s: %w", p, err)
	}
	if err := p.do(frozen); err != nil {
		return nil, err
	}
	s.cfg.Publish(topicPaused, &events.TaskPaused{ContainerID: t.id})
	return &emptypb.Empty{}, nil
}

// Resume thaws a paused container.
func (s *Service) Resume(ctx context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	p := t.first
	if err := p.ops.acquire(ctx); err != nil {
		return nil, err
	}
	defer p.ops.release()
	if err := p.check(resume); err != nil {
		return nil, err
	}
	ctx, cancel := firmly(ctx)
	defer cancel()
	if err := t.container.Resume(ctx); err != nil {
		return nil, fmt.Errorf("resume %s: %w", p, err)
	}
	if err := p.do(resume); err != nil {
		return nil, err
	}
	s.cfg.Publish(topicResumed, &events.TaskResumed{ContainerID: t.id})
	return &emptypb.Empty{}, nil
}

// Update changes a container's limits.
func (s *Service) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	resources := new(specs.LinuxResources)
	if err := json.Unmarshal(r.Resources.GetValue(), resources); err != nil {
		return nil, fmt.Errorf("update container %s: read the resources: %w: %w", t.id, err, errdefs.ErrInvalidArgument)
	}
	if err := t.first.ops.acquire(ctx); err != nil {
		return nil, err
	}
	defer t.first.ops.release()
	if err := t.first.check(update); err != nil {
		return nil, err
	}
	if err := t.container.Update(ctx, resources); err != nil {
		return nil, fmt.Errorf("update container %s: %w", t.id, err)
	}
	return &emptypb.Empty{}, nil
}

// ResizePty sets the size of a process's terminal. Without a terminal it does
// nothing; for an exec that has not started it is done then.
func (s *Service) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !p.stdio.Terminal {
		return &emptypb.Empty{}, nil
	}
	p.mu.Lock()
	early := p.state == created && p.execID != ""
	if early {
		p.size = &size{r.Width, r.Height}
	}
	p.mu.Unlock()
	if early {
		return &emptypb.Empty{}, nil
	}
	if err := p.check(resize); err != nil {
		return nil, err
	}
	if err := p.guest.Resize(ctx, r.Width, r.Height); err != nil {
		return nil, fmt.Errorf("resize the terminal of %s: %w", p, err)
	}
	return &emptypb.Empty{}, nil
}

// CloseIO ends a process's input.
func (s *Service) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	p.mu.Lock()
	early := p.state == created && p.execID != ""
	p.stdinClosed = p.stdinClosed || early
	p.mu.Unlock()
	if early {
		return &emptypb.Empty{}, nil
	}
	if err := p.check(closeIO); err != nil {
		return nil, err
	}
	if err := p.guest.CloseStdin(ctx); err != nil {
		return nil, fmt.Errorf("close stdin of %s: %w", p, err)
	}
	return &emptypb.Empty{}, nil
}

// Checkpoint is not possible: a VM's container cannot be moved by CRIU.
func (s *Service) Checkpoint(_ context.Context, r *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint container %s: %w", r.ID, errdefs.ErrNotImplemented)
}
