package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata/api/ttrpc"
)

// maxSignal is the largest signal number of Linux.
const maxSignal = 64

// Kill signals a process, or with All every process of the container. SIGKILL
// for a container that is being created aborts its creation.
func (s *Service) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	if r.Signal > maxSignal {
		return nil, fmt.Errorf("signal %d: %w", r.Signal, errdefs.ErrInvalidArgument)
	}
	if r.Signal == uint32(unix.SIGKILL) && r.ExecID == "" && s.abort(r.ID, errKilled) != nil {
		return &emptypb.Empty{}, nil
	}
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.check(kill); err != nil {
		return nil, err
	}
	if r.All && r.ExecID == "" {
		err = t.container.Kill(ctx, r.Signal)
	} else {
		err = p.guest.Signal(ctx, r.Signal)
	}
	if err != nil && s.endedMeanwhile(ctx, p, err) {
		err = fmt.Errorf("%s: process already finished: %w", p, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("signal %d to %s: %w", r.Signal, p, err)
	}
	return &emptypb.Empty{}, nil
}

// endedMeanwhile tells whether a signal failed because its process has ended. What is
// no answer of the agent's means that its connection is gone, and so is the sandbox,
// which takes a moment to tell.
func (s *Service) endedMeanwhile(ctx context.Context, p *process, err error) bool {
	var answer *ttrpc.Error
	if p.ended() || errors.As(err, &answer) {
		return p.ended()
	}
	limit := time.NewTimer(killTimeout)
	defer limit.Stop()
	select {
	case <-p.guest.Done():
	case <-limit.C:
	case <-ctx.Done():
	}
	return p.ended()
}

// abort ends the creation of the container, if it is under way, and returns its
// task; else nil.
func (s *Service) abort(id string, cause error) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil || t.ready {
		return nil
	}
	t.abort(cause)
	return t
}

// Delete removes an exec, or a container and with the last one the sandbox. A
// container that was never started is killed; one that is being created is
// aborted and then not found.
func (s *Service) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	if r.ExecID == "" {
		if err := s.abandonCreation(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.ops.acquire(ctx); err != nil {
		return nil, err
	}
	defer p.ops.release()
	if err := p.awaitExitTold(ctx); err != nil {
		return nil, err
	}
	if err := p.check(remove); err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = s.deleteContainer(ctx, t)
	} else {
		err = s.deleteExec(ctx, t, p)
	}
	if err != nil {
		return nil, err
	}
	_, e := p.snapshot()
	return &api.DeleteResponse{ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At), Pid: p.hostPID()}, nil
}

// awaitExitTold waits, when a process has run and ended, until that is told. Kill
// says already that there is no such process; Delete must not say that it runs.
func (p *process) awaitExitTold(ctx context.Context) error {
	switch state, _ := p.snapshot(); state {
	case running, pausing, paused:
	default:
		return nil
	}
	if !p.ended() {
		return nil
	}
	if err := p.awaitGone(ctx); err != nil {
		return fmt.Errorf("wait for the output of %s: %w", p, err)
	}
	return nil
}

// abandonCreation ends the creation of the container, if it is under way, and
// waits until nothing is left of it.
func (s *Service) abandonCreation(ctx context.Context, id string) error {
	t := s.abort(id, errDeleted)
	if t == nil {
		return nil
	}
	select {
	case <-t.creationDone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("abort the creation of container %s: %w", id, context.Cause(ctx))
	}
}

func (s *Service) deleteExec(ctx context.Context, t *task, p *process) error {
	if p.ended() {
		s.drain(ctx, p)
	}
	if err := p.guest.Delete(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", p, err)
	}
	// One that never ran is told to have ended to who waits for it, with status 0, as
	// runc's shim has it.
	if p.end(Exit{At: time.Now()}) {
		close(p.gone)
	}
	if err := p.do(remove); err != nil {
		return err
	}
	s.dropExec(t, p)
	return nil
}

func (s *Service) deleteContainer(ctx context.Context, t *task) error {
	p := t.first
	if state, _ := p.snapshot(); state == created {
		s.killCreated(ctx, t)
	}
	if p.ended() {
		s.drain(ctx, p)
	}
	if err := t.container.Delete(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", p, err)
	}
	for _, e := range s.execsOf(t) {
		s.abandon(ctx, e)
	}
	s.exited(p, Exit{Status: 128 + uint32(unix.SIGKILL), At: time.Now()}) // if nobody told so far
	<-p.gone
	_, e := p.snapshot()
	if err := p.do(remove); err != nil {
		return err
	}
	s.cfg.Publish(topicDelete, &events.TaskDelete{
		ContainerID: t.id, Pid: p.hostPID(), ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At),
	})
	s.drop(t)
	if err := s.stopSandbox(context.WithoutCancel(ctx), true); err != nil {
		// The container is deleted; what is left of the VM ends with the shim,
		// and with its "delete".
		s.cfg.Log.Error("after the last container", "container", t.id, "error", err)
	}
	return nil
}

// killCreated ends the process that waits for its start, as runc does.
func (s *Service) killCreated(ctx context.Context, t *task) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := t.container.Kill(ctx, uint32(unix.SIGKILL))
	if err == nil {
		err = t.first.awaitGone(ctx)
	}
	if err != nil {
		s.cfg.Log.Warn("kill the container before its deletion", "container", t.id, "error", err)
	}
}

// abandon releases an exec that its client has not deleted.
func (s *Service) abandon(ctx context.Context, p *process) {
	if err := p.ops.acquire(ctx); err != nil {
		return
	}
	defer p.ops.release()
	if p.check(remove) != nil {
		return // still running as far as we know: its own watcher ends it
	}
	if err := p.guest.Delete(ctx); err != nil {
		s.cfg.Log.Warn("delete exec", "container", p.containerID, "exec", p.execID, "error", err)
	}
	_ = p.do(remove)
}

// drain waits until the output is read, as long as somebody reads.
func (s *Service) drain(ctx context.Context, p *process) {
	if err := p.awaitDrained(ctx, drainTimeout); err != nil {
		s.cfg.Log.Warn("output is not read to its end", "container", p.containerID, "exec", p.execID, "error", err)
	}
}

// Shutdown ends the shim when there is nothing left to serve. A container that
// is being created, and that containerd has given up, does not hold it up.
func (s *Service) Shutdown(_ context.Context, r *api.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[r.ID]; t != nil && !t.ready {
		t.abort(errShutdown)
	} else if len(s.tasks) > 0 {
		return &emptypb.Empty{}, nil
	}
	if len(s.tasks) <= 1 && !s.closing {
		s.closing = true
		close(s.done) // Close waits for the creation that was aborted
	}
	return &emptypb.Empty{}, nil
}
