package task_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/host/shim/task"
	"kata/host/shim/task/tasktest"
	"kata/test/leaktest"
)

// world is a service over a fake sandbox, and what happens to both.
type world struct {
	*task.Service
	tasktest.Behaviour
	t *testing.T

	mu     sync.Mutex
	trace  []string // calls of the sandbox, and events, in order
	boots  int
	latest *tasktest.Sandbox
	oom    func(containerID string) // of the latest boot

	booting  chan struct{} // receives when a boot is held
	bootErr  error
	holdBoot chan struct{} // when set, boots wait for it to close
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, booting: make(chan struct{}, 1)}
	w.Note, w.Now = w.note, func() time.Time { return time.Unix(1_000_000, 0) }
	w.Service = task.New(task.Config{Namespace: "ns", PID: 4711, Boot: w.boot, Publish: w.publish, Log: slog.New(slog.DiscardHandler)})
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

func (w *world) boot(ctx context.Context, r task.BootRequest) (task.Sandbox, error) {
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
	s := tasktest.New(&w.Behaviour)
	w.mu.Lock()
	w.latest = s
	w.mu.Unlock()
	return s, nil
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

func (w *world) process(id, exec string) *tasktest.Process {
	w.t.Helper()
	return w.latest.Container(id).Process(exec)
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
