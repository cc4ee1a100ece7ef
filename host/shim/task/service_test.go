package task_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/api/ttrpc"
	"kata/host/shim/task"
	"kata/host/shim/task/tasktest"
)

// ended waits until the service has published the end of the process.
func (w *world) ended(id, exec string, status uint32) {
	w.t.Helper()
	if got := w.wait(id, exec); got != status {
		w.t.Errorf("%s %s ended with %d, want %d", id, exec, got, status)
	}
}

func TestEventsOfAContainersLife(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	w.process("c1", "e1").End(3)
	w.ended("c1", "e1", 3)
	w.remove("c1", "e1")
	if _, err := w.Pause(t.Context(), &api.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Resume(t.Context(), &api.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	w.process("c1", "").End(42)
	w.ended("c1", "", 42)
	resp := w.remove("c1", "")
	if resp.ExitStatus != 42 || resp.Pid != 5001 || resp.ExitedAt.AsTime().Unix() != 1_000_000 {
		t.Errorf("delete answered %v", resp)
	}
	w.wantEvents("/tasks/create c1", "/tasks/start c1", "/tasks/exec-added e1", "/tasks/exec-started e1",
		"/tasks/exit e1 3", "/tasks/paused c1", "/tasks/resumed c1", "/tasks/exit c1 42", "/tasks/delete c1 42")
}

func TestTheLastDeleteStopsTheSandboxAndShutdownEndsTheShim(t *testing.T) {
	w := newWorld(t)
	w.create("s", "io.kubernetes.cri.container-type", "sandbox")
	w.create("c", "io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "s")
	if w.boots != 1 {
		t.Errorf("%d boots for one pod", w.boots)
	}
	for _, id := range []string{"c", "s"} {
		w.start(id, "")
		w.process(id, "").End(0)
		w.ended(id, "", 0)
	}
	w.happened()
	w.remove("c", "")
	if _, err := w.Shutdown(t.Context(), &api.ShutdownRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	wantTrace(t, w.happened(), "delete c", "/tasks/delete c 0")
	select {
	case <-w.Done():
		t.Error("the shim ends with a container left")
	default:
	}
	w.remove("s", "")
	wantTrace(t, w.happened(), "delete s", "/tasks/delete s 0", "stop sandbox")
	if _, err := w.Shutdown(t.Context(), &api.ShutdownRequest{ID: "s"}); err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestExitQuickerThanTheAnswerToStartIsToldAfterIt(t *testing.T) {
	w := newWorld(t)
	w.Instant = true
	w.create("c1")
	w.start("c1", "")
	w.ended("c1", "", 0)
	w.wantEvents("/tasks/create c1", "/tasks/start c1", "/tasks/exit c1 0")
}

func TestOOMKillsAreToldBetweenStartAndExit(t *testing.T) {
	w := newWorld(t)
	w.OnStart = func() { w.oom("c1") }
	w.create("c1")
	w.start("c1", "")
	w.oom("c1")
	w.oom("nobody")
	w.oom("c1")
	w.process("c1", "").End(137)
	w.ended("c1", "", 137)
	w.wantEvents("/tasks/create c1", "/tasks/start c1", "/tasks/oom c1", "/tasks/oom c1", "/tasks/oom c1", "/tasks/exit c1 137")
}

func TestAnOOMKillOfAContainerThatCannotStartIsTold(t *testing.T) {
	w := newWorld(t)
	w.OnStart = func() { w.oom("c1") }
	w.StartErr = errors.New("it was killed")
	w.create("c1")
	if _, err := w.Start(t.Context(), &api.StartRequest{ID: "c1"}); err == nil {
		t.Error("it started")
	}
	w.process("c1", "").End(137)
	w.ended("c1", "", 137)
	w.wantEvents("/tasks/create c1", "/tasks/oom c1", "/tasks/exit c1 137")
}

func TestContainersExitIsToldAfterThoseOfItsExecs(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	w.happened()
	w.process("c1", "").End(0)
	w.process("c1", "e1").End(137)
	w.ended("c1", "", 0)
	w.wantEvents("/tasks/exit e1 137", "/tasks/exit c1 0")
}

func TestExecThatOutlivesItsContainerDelaysTheExitForABoundedTime(t *testing.T) {
	dir := bundle(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.createIn("c1", dir)
		w.start("c1", "")
		w.exec("c1", "e1")
		w.start("c1", "e1")
		began := time.Now()
		w.process("c1", "").End(5)
		w.ended("c1", "", 5)
		if took := time.Since(began); took > task.LastExecs {
			t.Errorf("the exit took %s", took)
		}
		w.process("c1", "e1").End(0)
		w.ended("c1", "e1", 0)
		w.remove("c1", "")
	})
}

func TestOutputThatNobodyReadsDelaysExitAndDeleteForABoundedTime(t *testing.T) {
	dir := bundle(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Stuck = true
		w.createIn("c1", dir)
		w.start("c1", "")
		w.process("c1", "").End(0)
		began := time.Now()
		w.ended("c1", "", 0)
		if took := time.Since(began); took != task.FlushTimeout {
			t.Errorf("the exit was told after %s, want %s", took, task.FlushTimeout)
		}
		w.remove("c1", "")
		if took := time.Since(began); took != task.FlushTimeout+task.DrainTimeout {
			t.Errorf("delete took %s, want %s", took, task.FlushTimeout+task.DrainTimeout)
		}
	})
}

func TestASlowReaderGetsAllOutputBeforeTheExitIsTold(t *testing.T) {
	dir := bundle(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Drained = make(chan struct{})
		w.createIn("c1", dir)
		w.start("c1", "")
		w.process("c1", "").End(0)
		began := time.Now()
		const reads, pace = 10, task.FlushTimeout * 3 / 4
		go func() {
			for range reads {
				time.Sleep(pace)
				w.Copied.Add(1)
			}
			close(w.Drained)
		}()
		w.ended("c1", "", 0)
		if took := time.Since(began); took != reads*pace {
			t.Errorf("the exit was told after %s, want %s", took, reads*pace)
		}
		w.remove("c1", "")
	})
}

// TestAFailedStartIsToldWhenItsProcessHasEnded: ctr deletes the container at once, and
// only if it is stopped.
func TestAFailedStartIsToldWhenItsProcessHasEnded(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.StartErr = errors.New("hook /no/such/hook: no such file or directory")
	w.OnStart = func() { w.latest.Container("c1").Init().(*tasktest.Process).End(255) }
	if _, err := w.Start(t.Context(), &api.StartRequest{ID: "c1"}); err == nil || !strings.Contains(err.Error(), "/no/such/hook") {
		t.Errorf("start: %v", err)
	}
	if got := w.status("c1", ""); got != "STOPPED" {
		t.Errorf("status %s", got)
	}
	w.remove("c1", "")
}

// TestASignalThatMeetsADyingVMComesTooLate: the connection to the agent goes first,
// the news of the exit follows.
func TestASignalThatMeetsADyingVMComesTooLate(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.KillErr = fmt.Errorf("calling SignalProcess: %w", ttrpc.ErrClosed)
	killed := make(chan error, 1)
	go func() {
		_, err := w.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 9, All: true})
		killed <- err
	}()
	for !slices.Contains(w.happened(), "kill all of c1 with 9") {
		runtime.Gosched()
	}
	w.latest.Die(errors.New("the virtual machine ended"))
	if err := <-killed; !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "already finished") {
		t.Errorf("kill: %v", err)
	}
	w.ended("c1", "", 137)
	w.remove("c1", "")
}

func TestDeathOfTheVMEndsEveryProcessWith137(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	w.exec("c1", "e1")
	w.start("c1", "e1")
	w.happened()
	w.latest.Die(errors.New("the virtual machine ended: bad luck"))
	w.ended("c1", "e1", 137)
	w.ended("c1", "", 137)
	w.AwaitWatchers()
	trace := w.happened()
	if !slices.Contains(trace, "stop sandbox") {
		t.Errorf("the dead sandbox is not released: %q", trace)
	}
	wantTrace(t, onlyEvents(trace), "/tasks/exit e1 137", "/tasks/exit c1 137")
	if got := w.status("c1", ""); got != "STOPPED" {
		t.Errorf("status %s", got)
	}
	_, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c2", Bundle: bundle(t)})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "bad luck") {
		t.Errorf("create in a dead sandbox: %v", err)
	}
	if resp := w.remove("c1", ""); resp.ExitStatus != 137 {
		t.Errorf("delete answered %v", resp)
	}
}

func TestEverythingIsAnsweredWhileTheSandboxBoots(t *testing.T) {
	w := newWorld(t)
	w.holdBoot = make(chan struct{})
	created := w.createLater("c1")
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"State":   func() error { _, err := w.State(ctx, &api.StateRequest{ID: "c1"}); return err },
		"Wait":    func() error { _, err := w.Wait(ctx, &api.WaitRequest{ID: "c1"}); return err },
		"Pids":    func() error { _, err := w.Pids(ctx, &api.PidsRequest{ID: "c1"}); return err },
		"Connect": func() error { _, err := w.Connect(ctx, &api.ConnectRequest{ID: "c1"}); return err },
		"SIGTERM": func() error { _, err := w.Kill(ctx, &api.KillRequest{ID: "c1", Signal: 15}); return err },
	} {
		if err := call(); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want not found", name, err)
		}
	}
	if _, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t)}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	close(w.holdBoot)
	if err := <-created; err != nil {
		t.Error(err)
	}
}

// createLater starts a Create and returns once the sandbox boots.
func (w *world) createLater(id string) <-chan error {
	w.t.Helper()
	return w.createLaterWith(w.t.Context(), id)
}

func (w *world) createLaterWith(ctx context.Context, id string) <-chan error {
	w.t.Helper()
	result := make(chan error, 1)
	dir := bundle(w.t)
	go func() {
		_, err := w.Create(ctx, &api.CreateTaskRequest{ID: id, Bundle: dir})
		result <- err
	}()
	select {
	case <-w.booting:
	case err := <-result:
		w.t.Fatalf("create ended before the boot: %v", err)
	}
	return result
}

func TestACreationIsAborted(t *testing.T) {
	for name, c := range map[string]struct {
		by   func(w *world, cancel func()) error
		want string
	}{
		"by SIGKILL": {func(w *world, _ func()) error {
			_, err := w.Kill(w.t.Context(), &api.KillRequest{ID: "c1", Signal: 9})
			return err
		}, "killed while being created"},
		"by Delete": {func(w *world, _ func()) error {
			_, err := w.Delete(w.t.Context(), &api.DeleteRequest{ID: "c1"})
			if errdefs.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("delete: %w, want not found", err)
		}, "deleted while being created"},
		"by Shutdown": {func(w *world, _ func()) error {
			_, err := w.Shutdown(w.t.Context(), &api.ShutdownRequest{ID: "c1"})
			<-w.Done()
			return errors.Join(err, w.Close(w.t.Context()))
		}, "shutting down"},
		"by the end of the connection": {func(_ *world, cancel func()) error { cancel(); return nil }, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.holdBoot = make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			created := w.createLaterWith(ctx, "c1")
			if err := c.by(w, cancel); err != nil {
				t.Error(err)
			}
			if err := <-created; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("create: %v, want %q", err, c.want)
			}
			if !w.Empty() {
				t.Error("a task is left")
			}
			wantTrace(t, w.happened(), "boot c1", "boot aborted")
		})
	}
}

func TestOptionsOfAnotherRuntimeAreIgnoredWithOneLogLine(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.SetLog(slog.New(slog.NewTextHandler(&log, nil)))
	_, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t), Options: &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("\x10\x01")}})
	if err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "type=containerd.runc.v1.Options"); n != 1 {
		t.Errorf("%d lines name the options in the log: %s", n, &log)
	}
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	good := bundle(t)
	for name, c := range map[string]struct {
		prepare func(w *world)
		request *api.CreateTaskRequest
		want    string
		is      func(error) bool
		trace   []string
	}{
		"no bundle":            {nil, &api.CreateTaskRequest{ID: "c1", Bundle: "/no/such/bundle"}, "/no/such/bundle/config.json", nil, nil},
		"an id that is a path": {nil, &api.CreateTaskRequest{ID: "../x", Bundle: good}, `"../x"`, errdefs.IsInvalidArgument, nil},
		"options that cannot be read": {nil, &api.CreateTaskRequest{ID: "c1", Bundle: good, Options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}},
			"runtime options: ", errdefs.IsInvalidArgument, nil},
		"managers that disagree": {nil, &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t,
			"io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri-o.ContainerType", "container", "io.kubernetes.cri-o.SandboxID", "s")},
			"disagree", errdefs.IsInvalidArgument, nil},
		"a checkpoint": {nil, &api.CreateTaskRequest{ID: "c1", Bundle: good, Checkpoint: "/x"}, "checkpoint", errdefs.IsNotImplemented, nil},
		"a pod that is not there": {nil, &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "s")},
			"its sandbox s is not running", errdefs.IsFailedPrecondition, nil},
		"a boot that fails": {func(w *world) { w.bootErr = errors.New("no kernel at /vmlinux") },
			&api.CreateTaskRequest{ID: "c1", Bundle: good}, "no kernel at /vmlinux", nil, []string{"boot c1"}},
		"a container that cannot be created": {func(w *world) { w.CreateErr = errors.New("exec: nonexistent") },
			&api.CreateTaskRequest{ID: "c1", Bundle: good}, "exec: nonexistent", nil, []string{"boot c1", "create c1", "stop sandbox"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.prepare != nil {
				c.prepare(w)
			}
			_, err := w.Create(t.Context(), c.request)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !c.is(err) {
				t.Errorf("create: %v, want %q", err, c.want)
			}
			if !w.Empty() {
				t.Error("a task is left")
			}
			wantTrace(t, w.happened(), c.trace...)
			w.bootErr, w.CreateErr = nil, nil
			w.create("c1") // and it can be tried again
		})
	}
}

func TestDeleteOfAContainerThatWasNeverStartedKillsIt(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	if resp := w.remove("c1", ""); resp.ExitStatus != 137 {
		t.Errorf("delete answered %v", resp)
	}
	wantTrace(t, w.happened(), "boot c1", "create c1", "/tasks/create c1", "kill all of c1 with 9", "/tasks/exit c1 137",
		"delete c1", "/tasks/delete c1 137", "stop sandbox")
	if _, err := w.Delete(t.Context(), &api.DeleteRequest{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("a second delete: %v", err)
	}
}

func TestCloseEndsWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.ended("c1", "", 137)
	if _, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c2", Bundle: bundle(t)}); !errdefs.IsUnavailable(err) {
		t.Errorf("create after close: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.start("c1", "")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			id := fmt.Sprint("e", i)
			w.exec("c1", id)
			w.start("c1", id)
			_ = w.status("c1", id)
			w.process("c1", id).End(uint32(i))
			w.ended("c1", id, uint32(i))
			w.remove("c1", id)
		})
	}
	all.Wait()
	w.process("c1", "").End(0)
	w.ended("c1", "", 0)
	w.remove("c1", "")
}

func TestASandboxThatCouldNotBeReleasedIsStoppedAgain(t *testing.T) {
	w := newWorld(t)
	w.create("c1")
	w.StopErr = errors.New("a mount is busy")
	w.start("c1", "")
	w.process("c1", "").End(0)
	w.ended("c1", "", 0)
	w.remove("c1", "")
	if _, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c2", Bundle: bundle(t)}); err == nil || !strings.Contains(err.Error(), "a mount is busy") {
		t.Errorf("create gave %v", err)
	}
	w.StopErr = nil
	w.happened()
	w.create("c3")
	wantTrace(t, w.happened()[:3], "stop sandbox", "boot c3", "create c3")
	w.StopErr = errors.New("a mount is busy")
	if err := w.Close(t.Context()); err == nil {
		t.Error("the failure is not told")
	}
	w.StopErr = nil
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKillAndDeleteNeverContradictEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Drained = make(chan struct{}) // the output is under way
		w.create("c1")
		w.start("c1", "")
		w.process("c1", "").End(0)
		synctest.Wait()
		if _, err := w.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 15}); !errdefs.IsNotFound(err) {
			t.Errorf("kill of a process that has ended: %v", err)
		}
		deleted := make(chan error)
		go func() {
			_, err := w.Delete(t.Context(), &api.DeleteRequest{ID: "c1"})
			deleted <- err
		}()
		synctest.Wait()
		close(w.Drained)
		if err := <-deleted; err != nil {
			t.Errorf("delete: %v", err)
		}
	})
}

func TestAnErrorOfTheGuestIsOneLineThatEveryClientCanShow(t *testing.T) {
	err := task.ToStatus(errors.New("exec: \xff\x1b[2Jno\nsuch\r\nfile " + strings.Repeat("x", 1<<20)))
	text := status.Convert(err).Message()
	if len(text) > 4<<10 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\n\r") || !strings.HasPrefix(text, "exec: ") {
		t.Errorf("%d bytes: %.80q", len(text), text)
	}
}
