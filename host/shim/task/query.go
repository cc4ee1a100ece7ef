package task

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata/host/shim/stats"
)

// State tells what becomes of a process. It never waits. A container that is being
// created is not found, as with runc's shim: a client that asks meanwhile, such as a
// logging program, asks again.
func (s *Service) State(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	state, e := p.snapshot()
	if container, _ := t.first.snapshot(); r.ExecID != "" && state == running && (container == paused || container == pausing) {
		state = container
	}
	resp := s.stateResponse(t, p)
	resp.Status = statusOf(state)
	if state == stopped || state == deleted {
		resp.ExitStatus, resp.ExitedAt = e.Status, timestamppb.New(e.At)
	}
	return resp, nil
}

func (s *Service) stateResponse(t *task, p *process) *api.StateResponse {
	id := t.id
	if p.execID != "" {
		id = p.execID
	}
	return &api.StateResponse{
		ID: id, Bundle: t.bundle, Pid: p.hostPID(), ExecID: p.execID,
		Stdin: p.stdio.Stdin, Stdout: p.stdio.Stdout, Stderr: p.stdio.Stderr, Terminal: p.stdio.Terminal,
	}
}

func statusOf(s state) tasktypes.Status {
	switch s {
	case created:
		return tasktypes.Status_CREATED
	case running:
		return tasktypes.Status_RUNNING
	case pausing:
		return tasktypes.Status_PAUSING
	case paused:
		return tasktypes.Status_PAUSED
	case stopped, deleted:
		return tasktypes.Status_STOPPED
	}
	return tasktypes.Status_UNKNOWN
}

// Wait returns once the process has ended.
func (s *Service) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.awaitGone(ctx); err != nil {
		return nil, err
	}
	_, e := p.snapshot()
	return &api.WaitResponse{ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}, nil
}

// maxPids is how many processes of a container are listed, whatever the guest says:
// as many as there are pids by the kernel's default.
const maxPids = 32 << 10

// Pids lists the container's processes by the pids that stand for them on the
// host: those within the guest would be strangers' to whoever reads the list.
// The first entry is the first process, then come the running execs, named. Each
// further process has an entry too, with the pid of the first one, by which a signal
// reaches the container and nobody else.
func (s *Service) Pids(ctx context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.first.check(list); err != nil {
		return nil, err
	}
	resp := &api.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: t.first.hostPID()}}}
	for _, p := range s.execsOf(t) {
		if state, _ := p.snapshot(); state != running {
			continue
		}
		details := &options.ProcessDetails{ExecID: p.execID}
		value, err := proto.Marshal(details)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", p, err)
		}
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{
			Pid: p.hostPID(), Info: &anypb.Any{TypeUrl: string(proto.MessageName(details)), Value: value},
		})
	}
	known := len(resp.Processes)
	all, err := t.container.Processes(ctx)
	if err != nil {
		s.cfg.Log.Debug("the guest lists no processes", "container", t.id, "error", err)
	}
	for range min(all, maxPids) - known {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: t.first.hostPID()})
	}
	return resp, nil
}

// Connect tells the shim's pid and the container's. A
// containerd that comes back asks for it, and cleans up after a container that
// is not there: one whose creation it did not live to see.
func (s *Service) Connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	resp := &api.ConnectResponse{ShimPid: s.cfg.PID}
	if r.ID != "" {
		t, err := s.find(r.ID)
		if err != nil {
			return nil, err
		}
		resp.TaskPid = t.first.hostPID()
	}
	return resp, nil
}

// Stats reads a container's statistics.
func (s *Service) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.first.check(measure); err != nil {
		return nil, err
	}
	resp, err := t.container.Stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", t.id, err)
	}
	encoded, err := stats.Encode(resp, s.cfg.Layout)
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: encoded}, nil
}
