package task

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata/host/shim/spec"
	"kata/host/stdio"
)

// statusNeverRan is the exit status of an exec that could not be started, as
// upstream reports it.
const statusNeverRan = 255

// changeTimeout bounds a change of a process's state in the guest.
const changeTimeout = time.Minute

// failedStart bounds the wait for the end of a process that could not be started.
const failedStart = 5 * time.Second

// firmly is for a change that the guest may have made although its answer did
// not come: a client that hangs up must not leave us with the wrong state.
func firmly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), changeTimeout,
		fmt.Errorf("the guest did not answer within %s: %w", changeTimeout, context.DeadlineExceeded))
}

// Start runs a created container or a registered exec.
func (s *Service) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.ops.acquire(ctx); err != nil {
		return nil, err
	}
	defer p.ops.release()
	if err := p.check(start); err != nil {
		return nil, err
	}
	ctx, cancel := firmly(ctx)
	defer cancel()
	if r.ExecID != "" {
		return s.startExec(ctx, t, p)
	}
	resp, err := s.startInit(ctx, t)
	if err != nil {
		// Its process ends of that, as runc's does, and a client that is told of the
		// failure deletes the container at once: not one that is still "created".
		ended, cancel := context.WithTimeout(ctx, failedStart)
		defer cancel()
		if p.awaitGone(ended) != nil {
			s.cfg.Log.Debug("the process outlives its failed start", "container", t.id)
		}
	}
	return resp, err
}

func (s *Service) startInit(ctx context.Context, t *task) (*api.StartResponse, error) {
	p := t.first
	p.starting.Lock()
	defer p.starting.Unlock()
	if err := p.guest.Start(ctx); err != nil {
		return nil, err
	}
	if err := p.do(start); err != nil {
		return nil, err
	}
	s.started(p)
	return &api.StartResponse{Pid: p.hostPID()}, nil
}

func (s *Service) startExec(ctx context.Context, t *task, p *process) (*api.StartResponse, error) {
	if err := t.first.check(startExec); err != nil {
		return nil, err
	}
	if t.first.ended() {
		return nil, fmt.Errorf("cannot start %s: its container has ended: %w", p, errdefs.ErrFailedPrecondition)
	}
	if err := p.guest.Start(ctx); err != nil {
		// It never ran, so no exit is published; who waits for it is told.
		if p.end(Exit{Status: statusNeverRan, At: time.Now()}) {
			close(p.gone)
		}
		return nil, err
	}
	p.nowHasPID()
	if err := p.do(start); err != nil {
		return nil, err
	}
	s.cfg.Publish(topicExecStarted, &events.TaskExecStarted{ContainerID: t.id, ExecID: p.execID, Pid: p.hostPID()})
	s.watching.Go(func() {
		<-p.guest.Done()
		p.flush()
		s.exited(p, p.guest.Exit())
	})
	s.catchUp(ctx, p)
	return &api.StartResponse{Pid: p.hostPID()}, nil
}

// catchUp does what was asked of an exec before there was a process to do it
// to.
func (s *Service) catchUp(ctx context.Context, p *process) {
	p.mu.Lock()
	size, closed := p.size, p.stdinClosed
	p.mu.Unlock()
	if size != nil {
		if err := p.guest.Resize(ctx, size.width, size.height); err != nil {
			s.cfg.Log.Warn("set the size of the terminal", "container", p.containerID, "exec", p.execID, "error", err)
		}
	}
	if closed {
		if err := p.guest.CloseStdin(ctx); err != nil {
			s.cfg.Log.Warn("close stdin", "container", p.containerID, "exec", p.execID, "error", err)
		}
	}
}

// Exec registers a process to be started inside a container.
func (s *Service) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	t, err := s.find(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec in container %s: the exec has no id: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	var process specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &process); err != nil {
		return nil, fmt.Errorf("exec %s in container %s: read the process: %w: %w", r.ExecID, r.ID, err, errdefs.ErrInvalidArgument)
	}
	if err := spec.CheckProcess(&process); err != nil {
		return nil, fmt.Errorf("exec %s in container %s: %w: %w", r.ExecID, r.ID, err, errdefs.ErrInvalidArgument)
	}
	process.Terminal = r.Terminal
	p := newProcess(r.ID, r.ExecID, stdio.Config{
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
		HoldStdin: t.first.stdio.HoldStdin, ID: r.ID, Namespace: s.cfg.Namespace,
	})
	_ = p.ops.acquire(context.Background()) // it is new, so free
	defer p.ops.release()
	if err := s.addExec(t, p); err != nil {
		return nil, err
	}
	if p.guest, err = t.container.Exec(ctx, r.ExecID, &process, p.stdio); err != nil {
		_ = p.do(remove) // for those who wait for its lock
		s.dropExec(t, p)
		return nil, err
	}
	s.cfg.Publish(topicExecAdded, &events.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

// addExec reserves the exec's id.
func (s *Service) addExec(t *task, p *process) error {
	if err := t.first.check(exec); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := t.execs[p.execID]; ok {
		return fmt.Errorf("%s: %w", p, errdefs.ErrAlreadyExists)
	}
	t.execs[p.execID] = p
	return nil
}

func (s *Service) dropExec(t *task, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(t.execs, p.execID)
}
