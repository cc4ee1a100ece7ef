package task_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/host/shim/task"
)

func TestMisuseIsRefused(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.create("c1")
	for _, id := range []string{"created", "running"} {
		w.exec("c1", id)
	}
	w.start("c1", "")
	w.start("c1", "running")
	w.create("dead")
	w.start("dead", "")
	w.process("dead", "").End(1)
	w.ended("dead", "", 1)
	spec := &anypb.Any{Value: []byte(`{"args":["true"]}`)}

	for name, c := range map[string]struct {
		call func() error
		is   func(error) bool
		want string
	}{
		"start twice": {func() error { _, err := w.Start(ctx, &api.StartRequest{ID: "c1"}); return err },
			errdefs.IsFailedPrecondition, "cannot start container c1: it is running"},
		"start of an exec twice": {func() error { _, err := w.Start(ctx, &api.StartRequest{ID: "c1", ExecID: "running"}); return err },
			errdefs.IsFailedPrecondition, "exec running in container c1"},
		"start of a stopped container": {func() error { _, err := w.Start(ctx, &api.StartRequest{ID: "dead"}); return err },
			errdefs.IsFailedPrecondition, "it is stopped"},
		"delete of a running container": {func() error { _, err := w.Delete(ctx, &api.DeleteRequest{ID: "c1"}); return err },
			errdefs.IsFailedPrecondition, "cannot delete container c1: it is running"},
		"delete of a running exec": {func() error { _, err := w.Delete(ctx, &api.DeleteRequest{ID: "c1", ExecID: "running"}); return err },
			errdefs.IsFailedPrecondition, "it is running"},
		"signal to a stopped container": {func() error { _, err := w.Kill(ctx, &api.KillRequest{ID: "dead", Signal: 15}); return err },
			errdefs.IsNotFound, "process already finished"},
		"signal to an exec that has not started": {func() error {
			_, err := w.Kill(ctx, &api.KillRequest{ID: "c1", ExecID: "created", Signal: 9})
			return err
		}, errdefs.IsFailedPrecondition, "it is created"},
		"a signal that does not exist": {func() error { _, err := w.Kill(ctx, &api.KillRequest{ID: "c1", Signal: 65}); return err },
			errdefs.IsInvalidArgument, "signal 65"},
		"exec in a stopped container": {func() error {
			_, err := w.Exec(ctx, &api.ExecProcessRequest{ID: "dead", ExecID: "x", Spec: spec})
			return err
		},
			errdefs.IsFailedPrecondition, "it is stopped"},
		"an exec id twice": {func() error {
			_, err := w.Exec(ctx, &api.ExecProcessRequest{ID: "c1", ExecID: "running", Spec: spec})
			return err
		},
			errdefs.IsAlreadyExists, "exec running in container c1"},
		"an exec without id": {func() error { _, err := w.Exec(ctx, &api.ExecProcessRequest{ID: "c1", Spec: spec}); return err },
			errdefs.IsInvalidArgument, "no id"},
		"an exec without a process": {func() error { _, err := w.Exec(ctx, &api.ExecProcessRequest{ID: "c1", ExecID: "x"}); return err },
			errdefs.IsInvalidArgument, "exec x in container c1"},
		"an exec without a command": {func() error {
			_, err := w.Exec(ctx, &api.ExecProcessRequest{ID: "c1", ExecID: "x", Spec: &anypb.Any{Value: []byte("{}")}})
			return err
		}, errdefs.IsInvalidArgument, "process.args is empty"},
		"resume of a running container": {func() error { _, err := w.Resume(ctx, &api.ResumeRequest{ID: "c1"}); return err },
			errdefs.IsFailedPrecondition, "cannot resume container c1: it is running"},
		"pause of a stopped container": {func() error { _, err := w.Pause(ctx, &api.PauseRequest{ID: "dead"}); return err },
			errdefs.IsFailedPrecondition, "cannot pause container dead"},
		"statistics of a stopped container": {func() error { _, err := w.Stats(ctx, &api.StatsRequest{ID: "dead"}); return err },
			errdefs.IsFailedPrecondition, "cannot read statistics of container dead"},
		"update without resources": {func() error { _, err := w.Update(ctx, &api.UpdateTaskRequest{ID: "c1"}); return err },
			errdefs.IsInvalidArgument, "update container c1"},
		"a checkpoint": {func() error { _, err := w.Checkpoint(ctx, &api.CheckpointTaskRequest{ID: "c1"}); return err },
			errdefs.IsNotImplemented, "checkpoint container c1"},
		"a container that is not there": {func() error { _, err := w.State(ctx, &api.StateRequest{ID: "x"}); return err },
			errdefs.IsNotFound, "container x: not found"},
		"an exec that is not there": {func() error { _, err := w.State(ctx, &api.StateRequest{ID: "c1", ExecID: "x"}); return err },
			errdefs.IsNotFound, "exec x in container c1: not found"},
		"wait for what is not there": {func() error { _, err := w.Wait(ctx, &api.WaitRequest{ID: "x"}); return err }, errdefs.IsNotFound, "x"},
		"a container twice": {func() error {
			_, err := w.Create(ctx, &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t)})
			return err
		}, errdefs.IsAlreadyExists, "container c1: already exists"},
	} {
		if err := c.call(); err == nil || !c.is(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", name, err, c.want)
		}
	}
}

func TestAnExecThatCannotStartIsStoppedAndDeletable(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.happened()
	w.StartErr = errors.New(`exec: "nonexistent": no such file`)
	_, err := w.Start(t.Context(), &api.StartRequest{ID: "c1", ExecID: "e1"})
	if err == nil || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("start: %v", err)
	}
	w.ended("c1", "e1", task.StatusNeverRan)
	if resp := w.remove("c1", "e1"); resp.ExitStatus != task.StatusNeverRan {
		t.Errorf("delete answered %v", resp)
	}
	w.wantEvents() // it was never started, so it has no exit either
	if got := w.status("c1", ""); got != "RUNNING" {
		t.Errorf("the container is %s", got)
	}
}

func TestAnExecThatIsDeletedUnstartedReleasesItsWaiters(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	wait, err := w.AwaitGone("c1", "e1")
	if err != nil {
		t.Fatal(err)
	}
	if resp := w.remove("c1", "e1"); resp.ExitStatus != 0 {
		t.Errorf("delete answered %v", resp)
	}
	if err := wait(t.Context()); err != nil {
		t.Error(err)
	}
	w.exec("c1", "e1") // the id is free again
}

func TestSizeAndEndOfInputBeforeTheStartOfAnExec(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.happened()
	if _, err := w.ResizePty(t.Context(), &api.ResizePtyRequest{ID: "c1", ExecID: "e1", Width: 80, Height: 24}); err != nil {
		t.Error(err)
	}
	if _, err := w.CloseIO(t.Context(), &api.CloseIORequest{ID: "c1", ExecID: "e1", Stdin: true}); err != nil {
		t.Error(err)
	}
	w.start("c1", "e1")
	wantTrace(t, w.happened(), "start e1", "/tasks/exec-started e1", "resize e1 to 80x24", "close stdin of e1")
}

func TestAPausedContainersExecsAreSeenAsPaused(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	w.exec("c1", "e2")
	if _, err := w.Pause(t.Context(), &api.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if c, e := w.status("c1", ""), w.status("c1", "e1"); c != "PAUSED" || e != "PAUSED" {
		t.Errorf("container %s, exec %s", c, e)
	}
	if _, err := w.Start(t.Context(), &api.StartRequest{ID: "c1", ExecID: "e2"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start in a paused container: %v", err)
	}
	w.PauseErr = errors.New("no freezer")
	if _, err := w.Resume(t.Context(), &api.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Pause(t.Context(), &api.PauseRequest{ID: "c1"}); err == nil {
		t.Error("a pause that fails is reported as done")
	}
	if got := w.status("c1", ""); got != "RUNNING" {
		t.Errorf("after a failed pause: %s", got)
	}
}

func TestSignalsGoToOneProcessOrAll(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	w.happened()
	for _, r := range []*api.KillRequest{{ID: "c1", Signal: 15}, {ID: "c1", Signal: 1, All: true}, {ID: "c1", ExecID: "e1", Signal: 2}} {
		if _, err := w.Kill(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	wantTrace(t, w.happened(), "signal c1 with 15", "kill all of c1 with 1", "signal e1 with 2")
	// The process ends between our look and the signal.
	w.process("c1", "e1").End(0)
	w.ended("c1", "e1", 0)
	if _, err := w.Kill(t.Context(), &api.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}); !errdefs.IsNotFound(err) {
		t.Errorf("late signal: %v", err)
	}
}

func TestPidsListTheFirstProcessAndRunningExecs(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.exec("c1", "e2")
	w.start("c1", "e2")
	resp, err := w.Pids(t.Context(), &api.PidsRequest{ID: "c1"})
	if err != nil || len(resp.Processes) != 2 || resp.Processes[0].Pid != 5001 || resp.Processes[1].Pid != 6002 || resp.Processes[0].Info != nil {
		t.Fatalf("pids: %v, %v", resp, err)
	}
	if info := resp.Processes[1].Info; info.GetTypeUrl() != "containerd.runc.v1.ProcessDetails" || !strings.Contains(string(info.Value), "e2") {
		t.Errorf("info of the exec: %v", info)
	}
}

func TestUpdateAndStatistics(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.happened()
	if _, err := w.Update(t.Context(), &api.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":7}}`)}}); err != nil {
		t.Error(err)
	}
	wantTrace(t, w.happened(), "update c1 to 7 pids")
	resp, err := w.Stats(t.Context(), &api.StatsRequest{ID: "c1"})
	if err != nil || resp.Stats.GetTypeUrl() != "io.containerd.cgroups.v1.Metrics" {
		t.Errorf("stats: %v, %v", resp, err)
	}
}

func TestAClientThatHangsUpDuringAStartDoesNotChangeItsOutcome(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.happened()
	ctx, cancel := context.WithCancel(t.Context())
	w.OnStart = cancel
	if _, err := w.Start(ctx, &api.StartRequest{ID: "c1"}); err != nil {
		t.Errorf("start: %v", err)
	}
	w.wantEvents("/tasks/start c1")
	if got := w.status("c1", ""); got != "RUNNING" {
		t.Errorf("status %s", got)
	}
}

func TestPidsHasAnEntryForEachProcess(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	for name, tt := range map[string]struct {
		told int
		err  error
		want int
	}{
		"some of its children":    {5, nil, 5},
		"fewer than we know of":   {0, nil, 2},
		"an agent without a list": {0, errors.New("unimplemented"), 2},
		"an agent that lies":      {1 << 30, nil, 32 << 10},
	} {
		w.Processes, w.ProcessesErr = tt.told, tt.err
		resp, err := w.Pids(t.Context(), &api.PidsRequest{ID: "c1"})
		if err != nil || len(resp.Processes) != tt.want {
			t.Errorf("%s: %d entries, %v, want %d", name, len(resp.GetProcesses()), err, tt.want)
			continue
		}
		for i, p := range resp.Processes {
			if p.Pid == 0 || (p.Info != nil) != (i == 1) {
				t.Fatalf("%s: entry %d is %v", name, i, p)
			}
		}
	}
}
