package task

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/host/pod"
	"kata/host/shim/options"
	"kata/host/shim/spec"
	"kata/host/stdio"
)

// Create creates a container; for the first one it boots the sandbox. A failed
// Create leaves nothing. While it is under way, Kill with SIGKILL and Delete
// abort it.
func (s *Service) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, fmt.Errorf("restore container %s from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	t, err := s.reserve(r, abort)
	if err != nil {
		return nil, err
	}
	defer close(t.creationDone)
	// Whoever finds the task ready waits here until its creation is published.
	_ = t.first.ops.acquire(context.Background()) // it is new, so free
	defer t.first.ops.release()
	if err := s.create(ctx, t, r); err != nil {
		if cause := context.Cause(ctx); isAbort(cause) {
			err = fmt.Errorf("create container %s: %w: %w", t.id, cause, errdefs.ErrAborted)
		}
		s.drop(t)
		if stop := s.stopSandbox(context.WithoutCancel(ctx), true); stop != nil {
			s.cfg.Log.Error("after a failed creation", "container", t.id, "error", stop)
		}
		return nil, err
	}
	s.cfg.Publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         t.first.hostPID(),
	})
	s.watching.Go(func() { s.watchInit(t) })
	return &api.CreateTaskResponse{Pid: t.first.hostPID()}, nil
}

func isAbort(err error) bool {
	return errors.Is(err, errDeleted) || errors.Is(err, errKilled) || errors.Is(err, errShutdown)
}

// reserve enters the task as one that is being created.
func (s *Service) reserve(r *api.CreateTaskRequest, abort context.CancelCauseFunc) (*task, error) {
	if r.ID == "" || strings.ContainsAny(r.ID, "/\x00") || r.ID == "." || r.ID == ".." {
		return nil, fmt.Errorf("container id %q is not a name: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	t := &task{
		id: r.ID, bundle: r.Bundle, abort: abort, creationDone: make(chan struct{}), execs: make(map[string]*process),
		first: newProcess(r.ID, "", stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, fmt.Errorf("create container %s: %w: %w", r.ID, errShutdown, errdefs.ErrUnavailable)
	}
	if _, ok := s.tasks[r.ID]; ok {
		return nil, fmt.Errorf("container %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	s.tasks[r.ID] = t
	s.noteChange()
	return t, nil
}

func (s *Service) create(ctx context.Context, t *task, r *api.CreateTaskRequest) error {
	opts, err := options.Decode(r.Options)
	if err != nil {
		return fmt.Errorf("create container %s: %w: %w", t.id, err, errdefs.ErrInvalidArgument)
	}
	if opts.Ignored != "" {
		s.cfg.Log.Info("runtime options of another runtime have no effect", "container", t.id, "type", opts.Ignored)
	}
	oci, err := spec.Read(r.Bundle)
	if err != nil {
		return fmt.Errorf("create container %s: %w", t.id, err)
	}
	role, err := spec.RoleOf(oci.Annotations)
	if err != nil {
		return fmt.Errorf("create container %s: %w: %w", t.id, err, errdefs.ErrInvalidArgument)
	}
	oci.Process.Terminal = r.Terminal
	t.first.stdio.HoldStdin = role.Managed
	t.first.stdio.ID, t.first.stdio.Namespace = t.id, s.cfg.Namespace
	sandbox, err := s.sandboxFor(ctx, BootRequest{ID: t.id, Bundle: r.Bundle, Pod: pod.FromBundle(oci), ConfigPath: opts.ConfigPath}, role)
	if err != nil {
		return err
	}
	request := ContainerRequest{ID: t.id, Bundle: r.Bundle, Spec: oci, Stdio: t.first.stdio}
	for _, m := range r.Rootfs {
		request.Rootfs = append(request.Rootfs, Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	container, err := sandbox.CreateContainer(ctx, request)
	if err != nil {
		return err
	}
	if err := s.commit(ctx, t, container, oci); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return errors.Join(err, container.Delete(cleanup))
	}
	if err := spec.WriteInitPID(r.Bundle, int(t.first.hostPID())); err != nil {
		s.cfg.Log.Warn("if this shim is killed, the exit is reported without a pid", "container", t.id, "error", err)
	}
	return nil
}

// commit makes the task one that is there, unless its creation was aborted.
func (s *Service) commit(ctx context.Context, t *task, container Container, oci *specs.Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("create container %s: %w", t.id, err)
	}
	t.ready, t.container, t.sharesPIDs = true, container, spec.SharesPIDs(oci)
	t.first.guest = container.Init()
	t.first.nowHasPID()
	return nil
}

// sandboxFor returns the pod's sandbox; it boots it for the container that may
// have one of its own.
func (s *Service) sandboxFor(ctx context.Context, r BootRequest, role spec.Role) (Sandbox, error) {
	if err := s.pod.acquire(ctx); err != nil {
		return nil, fmt.Errorf("create container %s: wait for the sandbox: %w", r.ID, err)
	}
	defer s.pod.release()
	s.mu.Lock()
	sandbox := s.sandbox
	s.mu.Unlock()
	if sandbox != nil {
		select {
		case <-sandbox.Done():
			if sandbox.Err() == nil { // stopped, and not all of it was released
				if err := s.release(ctx, sandbox); err != nil {
					return nil, fmt.Errorf("create container %s: %w", r.ID, err)
				}
				break
			}
			return nil, fmt.Errorf("create container %s: its sandbox is gone: %w: %w", r.ID, sandbox.Err(), errdefs.ErrFailedPrecondition)
		default:
			return sandbox, nil
		}
	}
	if role.Sandbox != "" {
		return nil, fmt.Errorf("create container %s: its sandbox %s is not running: %w", r.ID, role.Sandbox, errdefs.ErrFailedPrecondition)
	}
	if r.ConfigPath == "" {
		r.ConfigPath = s.cfg.ConfigPath
	}
	r.OOM = s.oomKilled
	sandbox, err := s.cfg.Boot(ctx, r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sandbox = sandbox
	s.mu.Unlock()
	s.watching.Go(func() { s.releaseDead(sandbox) })
	return sandbox, nil
}

// watchInit tells the end of a container: once it was started, if it was, and
// after the ends of its execs.
func (s *Service) watchInit(t *task) {
	<-t.first.guest.Done()
	t.first.flush()
	t.first.starting.Lock() // a start under way publishes first
	defer t.first.starting.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), lastExecs)
	defer cancel()
	s.endExecs(ctx, t)
	s.exited(t.first, t.first.guest.Exit())
}

// endExecs waits for the execs of a container whose first process has ended.
// The end of a PID namespace has killed them; in a shared one they are killed
// here, as runc's shim does.
func (s *Service) endExecs(ctx context.Context, t *task) {
	execs := s.execsOf(t)
	live := execs[:0]
	for _, p := range execs {
		// A stopped one may not be published yet; if it is, nothing is waited for.
		if state, _ := p.snapshot(); state == running || state == stopped {
			live = append(live, p)
		}
	}
	if t.sharesPIDs {
		if err := t.container.Kill(ctx, uint32(unix.SIGKILL)); err != nil {
			s.cfg.Log.Debug("kill what is left of the container", "container", t.id, "error", err)
		}
	}
	for _, p := range live {
		if err := p.awaitGone(ctx); err != nil {
			s.cfg.Log.Warn("exec outlives its container", "container", t.id, "exec", p.execID)
		}
	}
}

func (s *Service) execsOf(t *task) []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	execs := make([]*process, 0, len(t.execs))
	for _, p := range t.execs {
		execs = append(execs, p)
	}
	return execs
}
