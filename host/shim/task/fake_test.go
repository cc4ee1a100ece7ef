package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/api/agentpb"
	"kata/host/stdio"
	"kata/test/leaktest"
)

// world is a service over a fake sandbox, and what happens to both.
type world struct {
	*Service
	t *testing.T

	mu     sync.Mutex
	trace  []string // calls of the sandbox, and events, in order
	boots  int
	latest *fakeSandbox
	oom    func(containerID string) // of the latest boot

	booting   chan struct{} // receives when a boot is held
	bootErr   error
	holdBoot  chan struct{} // when set, boots wait for it to close
	createErr error
	startErr  error
	onStart   func()        // called in the middle of a start
	stuck     bool          // output is never drained
	drained   chan struct{} // when set, output is drained once it is closed
	copied    atomic.Uint64 // bytes of output that were read
	instant   bool          // processes end before their start is answered
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, booting: make(chan struct{}, 1)}
	w.Service = New(Config{Namespace: "ns", PID: 4711, Boot: w.boot, Publish: w.publish, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	return w
}

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/shim/task.")) }

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// happened returns and forgets the trace.
func (w *world) happened() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.trace
	w.trace = nil
	return got
}

// events keeps only the events of a trace.
func onlyEvents(trace []string) []string {
	return slices.DeleteFunc(slices.Clone(trace), func(s string) bool { return !strings.HasPrefix(s, "/") })
}

func (w *world) publish(topic string, e proto.Message) {
	switch e := e.(type) {
	case *events.TaskExit:
		w.note("%s %s %d", topic, e.ID, e.ExitStatus)
	case *events.TaskDelete:
		w.note("%s %s %d", topic, e.ContainerID, e.ExitStatus)
	case *events.TaskExecAdded:
		w.note("%s %s", topic, e.ExecID)
	case *events.TaskExecStarted:
		w.note("%s %s", topic, e.ExecID)
	case interface{ GetContainerID() string }:
		w.note("%s %s", topic, e.GetContainerID())
	default:
		w.note("%s ?", topic)
	}
}

func (w *world) boot(ctx context.Context, r BootRequest) (Sandbox, error) {
	w.note("boot %s", r.ID)
	w.mu.Lock()
	hold, err := w.holdBoot, w.bootErr
	w.boots++
	w.oom = r.OOM
	w.mu.Unlock()
	if hold != nil {
		w.booting <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
			w.note("boot aborted")
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	s := &fakeSandbox{w: w, done: make(chan struct{}), containers: make(map[string]*fakeContainer)}
	w.mu.Lock()
	w.latest = s
	w.mu.Unlock()
	return s, nil
}

type fakeSandbox struct {
	w          *world
	mu         sync.Mutex
	done       chan struct{}
	over       bool
	err        error
	containers map[string]*fakeContainer
}

func (s *fakeSandbox) CreateContainer(ctx context.Context, r ContainerRequest) (Container, error) {
	s.w.note("create %s", r.ID)
	if s.w.createErr != nil {
		return nil, s.w.createErr
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &fakeContainer{w: s.w, id: r.ID, request: r, execs: make(map[string]*fakeProcess)}
	c.init = newFakeProcess(s.w, r.ID, r.Stdio)
	c.init.pid = 5001
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[r.ID] = c
	return c, nil
}

func (s *fakeSandbox) Done() <-chan struct{} { return s.done }

func (s *fakeSandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// die is the end of the virtual machine.
func (s *fakeSandbox) die(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over, s.err = true, reason
	close(s.done)
	for _, c := range s.containers {
		for _, p := range c.execs {
			p.end(137)
		}
		c.init.end(137)
	}
}

func (s *fakeSandbox) Stop(context.Context) error {
	s.w.note("stop sandbox")
	s.die(nil)
	return nil
}

type fakeContainer struct {
	w       *world
	id      string
	request ContainerRequest
	init    *fakeProcess

	mu       sync.Mutex
	execs    map[string]*fakeProcess
	pauseErr error
}

func (c *fakeContainer) Init() Process { return c.init }

func (c *fakeContainer) Exec(_ context.Context, id string, _ *specs.Process, io stdio.Config) (Process, error) {
	p := newFakeProcess(c.w, id, io)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs[id] = p
	p.pid = 6000 + len(c.execs)
	return p, nil
}

func (c *fakeContainer) Kill(_ context.Context, sig uint32) error {
	c.w.note("kill all of %s with %d", c.id, sig)
	if sig == 9 {
		c.init.end(137)
	}
	return nil
}

func (c *fakeContainer) Pause(context.Context) error {
	c.w.note("pause %s", c.id)
	return c.pauseErr
}

func (c *fakeContainer) Resume(context.Context) error {
	c.w.note("resume %s", c.id)
	return nil
}

func (c *fakeContainer) Stats(context.Context) (*agentpb.StatsContainerResponse, error) {
	return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{PidsStats: &agentpb.PidsStats{Current: 3}}}, nil
}

func (c *fakeContainer) Update(_ context.Context, r *specs.LinuxResources) error {
	c.w.note("update %s to %d pids", c.id, *r.Pids.Limit)
	return nil
}

func (c *fakeContainer) Delete(context.Context) error {
	c.w.note("delete %s", c.id)
	c.init.end(137)
	return nil
}

type fakeProcess struct {
	w    *world
	id   string
	pid  int
	once sync.Once
	done chan struct{}
	exit Exit
}

func newFakeProcess(w *world, id string, _ stdio.Config) *fakeProcess {
	return &fakeProcess{w: w, id: id, done: make(chan struct{})}
}

func (p *fakeProcess) end(status uint32) {
	p.once.Do(func() {
		p.exit = Exit{Status: status, At: time.Unix(1_000_000, 0)}
		close(p.done)
	})
}

func (p *fakeProcess) Start(ctx context.Context) error {
	p.w.note("start %s", p.id)
	if p.w.onStart != nil {
		p.w.onStart()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.w.startErr != nil {
		return p.w.startErr
	}
	if p.w.instant {
		p.end(0)
	}
	return nil
}

func (p *fakeProcess) Signal(_ context.Context, sig uint32) error {
	p.w.note("signal %s with %d", p.id, sig)
	select {
	case <-p.done:
		return errors.New("no such process")
	default:
	}
	if sig == 9 {
		p.end(137)
	}
	return nil
}

func (p *fakeProcess) Resize(_ context.Context, width, height uint32) error {
	p.w.note("resize %s to %dx%d", p.id, width, height)
	return nil
}

func (p *fakeProcess) CloseStdin(context.Context) error {
	p.w.note("close stdin of %s", p.id)
	return nil
}

func (p *fakeProcess) PID() int { return p.pid }

func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Exit() Exit            { return p.exit }

func (p *fakeProcess) Drained() <-chan struct{} {
	switch {
	case p.w.stuck:
		return nil
	case p.w.drained != nil:
		return p.w.drained
	}
	return p.done
}

func (p *fakeProcess) Copied() uint64 { return p.w.copied.Load() }

func (p *fakeProcess) Delete(context.Context) error {
	p.w.note("forget %s", p.id)
	return nil
}

// bundle makes a bundle whose spec has the annotations.
func bundle(t *testing.T, annotations ...string) string {
	t.Helper()
	var list []string
	for i := 0; i < len(annotations); i += 2 {
		list = append(list, fmt.Sprintf("%q:%q", annotations[i], annotations[i+1]))
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`{"process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},"annotations":{%s},
		"linux":{"namespaces":[{"type":"pid"}]}}`, strings.Join(list, ","))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The helpers below call the service and fail the test when it fails.

func (w *world) create(id string, annotations ...string) {
	w.t.Helper()
	w.createIn(id, bundle(w.t, annotations...))
}

func (w *world) createIn(id, dir string) {
	w.t.Helper()
	if _, err := w.Create(w.t.Context(), &api.CreateTaskRequest{ID: id, Bundle: dir}); err != nil {
		w.t.Fatalf("create %s: %v", id, err)
	}
}

func (w *world) start(id, exec string) {
	w.t.Helper()
	if _, err := w.Start(w.t.Context(), &api.StartRequest{ID: id, ExecID: exec}); err != nil {
		w.t.Fatalf("start %s %s: %v", id, exec, err)
	}
}

func (w *world) exec(id, exec string) {
	w.t.Helper()
	spec := &anypb.Any{Value: []byte(`{"args":["true"],"cwd":"/"}`)}
	if _, err := w.Exec(w.t.Context(), &api.ExecProcessRequest{ID: id, ExecID: exec, Terminal: true, Spec: spec}); err != nil {
		w.t.Fatalf("exec %s %s: %v", id, exec, err)
	}
}

func (w *world) wait(id, exec string) uint32 {
	w.t.Helper()
	resp, err := w.Wait(w.t.Context(), &api.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		w.t.Fatalf("wait for %s %s: %v", id, exec, err)
	}
	return resp.ExitStatus
}

func (w *world) remove(id, exec string) *api.DeleteResponse {
	w.t.Helper()
	resp, err := w.Delete(w.t.Context(), &api.DeleteRequest{ID: id, ExecID: exec})
	if err != nil {
		w.t.Fatalf("delete %s %s: %v", id, exec, err)
	}
	return resp
}

func (w *world) status(id, exec string) string {
	w.t.Helper()
	resp, err := w.State(w.t.Context(), &api.StateRequest{ID: id, ExecID: exec})
	if err != nil {
		w.t.Fatalf("state of %s %s: %v", id, exec, err)
	}
	return resp.Status.String()
}

func (w *world) process(id, exec string) *fakeProcess {
	w.t.Helper()
	w.latest.mu.Lock()
	defer w.latest.mu.Unlock()
	c := w.latest.containers[id]
	if exec == "" {
		return c.init
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.execs[exec]
}

func (w *world) wantEvents(want ...string) {
	w.t.Helper()
	if got := onlyEvents(w.happened()); !slices.Equal(got, want) {
		w.t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantTrace(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("happened:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
