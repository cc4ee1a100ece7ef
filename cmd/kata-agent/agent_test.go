package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

func TestContainerWithStreams(t *testing.T) {
	g := startAgent(t).sandbox()
	s := g.streams()
	g.run("web", shell("echo out; echo err >&2; cat; exit 42"), s)
	if _, err := s.stdin.Write([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	_ = s.stdin.CloseWrite()
	exit := g.wait("web", "")
	if exit.Status != 42 || exit.StdoutBytes != 9 || exit.StderrBytes != 4 {
		t.Errorf("exit %+v", exit)
	}
	if at := time.Unix(0, exit.ExitedAt); time.Since(at) < 0 || time.Since(at) > time.Minute {
		t.Errorf("exited at %v", at)
	}
	out, outErr := io.ReadAll(s.stdout)
	errs, errErr := io.ReadAll(s.stderr)
	if string(out) != "out\ntyped" || outErr != nil || string(errs) != "err\n" || errErr != nil {
		t.Errorf("stdout %q, %v; stderr %q, %v", out, outErr, errs, errErr)
	}
	g.remove("web")
	_, err := g.agent.WaitProcess(t.Context(), &agentpb.WaitProcessRequest{ContainerId: "web"})
	g.code("wait after removal", err, ttrpc.NotFound, `"web"`)
}

func TestContainerByCalls(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", shell("cat; echo bye >&2"), streams{})
	wrote, err := g.agent.WriteStdin(t.Context(), &agentpb.WriteStreamRequest{ContainerId: "c", Data: []byte("hello")})
	if err != nil || wrote.Len != 5 {
		t.Fatal(wrote, err)
	}
	read := &agentpb.ReadStreamRequest{ContainerId: "c", ExecId: "c", Len: 4096}
	if got, err := g.agent.ReadStdout(t.Context(), read); err != nil || string(got.Data) != "hello" {
		t.Errorf("ReadStdout: %q, %v", got.GetData(), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = g.agent.ReadStdout(ctx, read)
	g.code("read of nothing", err, ttrpc.DeadlineExceeded, "")
	if _, err := g.agent.CloseStdin(t.Context(), &agentpb.CloseStdinRequest{ContainerId: "c"}); err != nil {
		t.Error(err)
	}
	if got, err := g.agent.ReadStderr(t.Context(), read); err != nil || string(got.Data) != "bye\n" {
		t.Errorf("ReadStderr: %q, %v", got.GetData(), err)
	}
	if exit := g.wait("c", "c"); exit.Status != 0 || exit.StdoutBytes != 5 || exit.StderrBytes != 4 {
		t.Errorf("exit %+v", exit)
	}
	_, err = g.agent.ReadStdout(t.Context(), read)
	g.code("read at the end", err, ttrpc.OutOfRange, "read  meet eof")
	_, err = g.agent.WriteStdin(t.Context(), &agentpb.WriteStreamRequest{ContainerId: "c", Data: []byte("x")})
	g.code("write after CloseStdin", err, ttrpc.FailedPrecondition, "")
}

func TestTerminal(t *testing.T) {
	g := startAgent(t).sandbox()
	s := streams{stdin: g.dial(), stdout: g.dial()}
	p := process("sh")
	p.Terminal = true
	g.run("tty", p, s)
	if _, err := g.agent.TtyWinResize(t.Context(), &agentpb.TtyWinResizeRequest{ContainerId: "tty", Row: 33, Column: 77}); err != nil {
		t.Error(err)
	}
	if _, err := s.stdin.Write([]byte("stty size; exit 5\n")); err != nil {
		t.Fatal(err)
	}
	exit := g.wait("tty", "")
	if out := g.read(s.stdout, exit.StdoutBytes); exit.Status != 5 || !strings.Contains(out, "33 77\r\n") {
		t.Errorf("status %d, output %q", exit.Status, out)
	}
}

func TestExecs(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", process("sleep", "1000"), streams{})
	before := g.files()
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			id, s := fmt.Sprintf("e%d", i), g.streams()
			defer s.close()
			if err := g.exec("c", id, shell(fmt.Sprintf("echo %d; cat; exit %d", i, i)), s); err != nil {
				t.Error(err)
				return
			}
			_ = s.stdin.CloseWrite()
			exit := g.wait("c", id)
			if out := g.read(s.stdout, exit.StdoutBytes); int(exit.Status) != i || out != fmt.Sprintf("%d\n", i) {
				t.Errorf("exec %d: status %d, output %q", i, exit.Status, out)
			}
		})
	}
	all.Wait()
	// An ID is free again when its exit has been asked for.
	for range 3 {
		s := g.streams()
		if err := g.exec("c", "again", shell("kill -9 $$"), s); err != nil {
			t.Fatal(err)
		}
		for range 2 { // any number of waiters
			if exit := g.wait("c", "again"); exit.Status != 137 {
				t.Errorf("status %d, want 137", exit.Status)
			}
		}
		s.close()
		g.drained("c", "again")
	}
	g.becomes("descriptors as before", func() bool { return g.files() <= before })
}

// drained waits until the agent has noticed that the host closed the streams of
// a process: its ID can be used again then.
func (g *guest) drained(id, execID string) {
	g.Helper()
	g.becomes("exec "+execID+" forgettable", func() bool {
		err := g.exec(id, execID, process("/nonexistent"), streams{})
		return ttrpc.CodeOf(err) != ttrpc.AlreadyExists
	})
}

// becomes fails the test if condition does not come true.
func (g *guest) becomes(what string, condition func() bool) {
	g.Helper()
	for deadline := time.Now().Add(pace.Of(20 * time.Second)); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.Errorf("it never became so: %s", what)
			return
		}
	}
}

func TestExitDoesNotWaitForOutput(t *testing.T) {
	g := startAgent(t).sandbox()
	s := g.streams()
	g.run("c", process("sleep", "1000"), streams{})
	if err := g.exec("c", "e", shell("sleep 1000 & echo started"), s); err != nil {
		t.Fatal(err)
	}
	exit := g.wait("c", "e")
	if out := g.read(s.stdout, exit.StdoutBytes); out != "started\n" {
		t.Errorf("output %q", out)
	}
	g.remove("c") // the leftover process with it
	if rest, err := io.ReadAll(s.stdout); len(rest) != 0 || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestRemoveKillsAndAnswersWaiters(t *testing.T) {
	g := startAgent(t).sandbox()
	before := g.files()
	g.run("c", shell("trap '' TERM; sleep 1000 & wait"), streams{})
	var waiters sync.WaitGroup
	for range 5 {
		waiters.Go(func() {
			if exit := g.wait("c", ""); exit.Status != 137 {
				t.Errorf("status %d, want 137", exit.Status)
			}
		})
	}
	g.remove("c")
	waiters.Wait()
	if after := g.files(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	g.run("c", process("true"), streams{}) // the name is free
}

func TestAContainerThatWaitsDelaysNobody(t *testing.T) {
	g := startAgent(t).sandbox()
	stuck := make(chan error)
	go func() { // names a stream that nobody opens
		_, err := g.agent.CreateContainer(t.Context(), &agentpb.CreateContainerRequest{ContainerId: "stuck", OCI: g.spec("stuck", process("true")), StdoutPort: 4711})
		stuck <- err
	}()
	g.becomes("the container is known", func() bool {
		_, err := g.agent.StatsContainer(t.Context(), &agentpb.StatsContainerRequest{ContainerId: "stuck"})
		return ttrpc.CodeOf(err) == ttrpc.FailedPrecondition
	})
	if _, err := g.health.Check(t.Context(), &healthpb.CheckRequest{}); err != nil {
		t.Error(err)
	}
	g.run("other", process("true"), streams{})
	g.wait("other", "")
	_, err := g.agent.RemoveContainer(t.Context(), &agentpb.RemoveContainerRequest{ContainerId: "stuck"})
	if err != nil {
		t.Errorf("remove: %v", err)
	}
	g.code("create", <-stuck, ttrpc.Canceled, "4711")
}

func TestAFailedContainerLeavesNothing(t *testing.T) {
	g := startAgent(t).sandbox()
	files, mounts := g.files(), strings.Count(g.mounts(), "\n")
	shm := &agentpb.Storage{Driver: "ephemeral", Source: "shm", MountPoint: "/run/kata-containers/c/shm"}
	for what, storages := range map[string][]*agentpb.Storage{
		"a bad storage":     {shm, {Driver: "bind", Source: "/nonexistent", MountPoint: "/run/kata-containers/c/x"}},
		"a missing command": {shm},
	} {
		s := g.streams()
		_, err := g.agent.CreateContainer(t.Context(), &agentpb.CreateContainerRequest{
			ContainerId: "c", OCI: g.spec("c", process("nosuchcommand")), Storages: storages,
			StdinPort: s.stdin.port, StdoutPort: s.stdout.port, StderrPort: s.stderr.port,
		})
		if err == nil || !strings.Contains(err.Error(), "nosuch") && !strings.Contains(err.Error(), "nonexistent") {
			t.Errorf("%s: %v", what, err)
		}
		if what == "a missing command" {
			if _, err := s.stdout.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the stream is still open: %v", err)
			}
		}
		s.close()
	}
	if after := strings.Count(g.mounts(), "\n"); after != mounts {
		t.Errorf("%d mounts before, %d after:\n%s", mounts, after, g.mounts())
	}
	g.becomes("unclaimed streams have gone", func() bool { return g.files() <= files+3 })
}

func TestPauseStatsListUpdate(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", process("sleep", "1000"), streams{})
	if _, err := g.agent.PauseContainer(t.Context(), &agentpb.PauseContainerRequest{ContainerId: "c"}); err != nil {
		t.Error(err)
	}
	g.code("exec in a paused container", g.exec("c", "e", process("true"), streams{}), ttrpc.FailedPrecondition, "paused")
	if _, err := g.agent.ResumeContainer(t.Context(), &agentpb.ResumeContainerRequest{ContainerId: "c"}); err != nil {
		t.Error(err)
	}
	stats, err := g.agent.StatsContainer(t.Context(), &agentpb.StatsContainerRequest{ContainerId: "c"})
	if err != nil || stats.GetCgroupStats().GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	list, err := g.agent.ListProcesses(t.Context(), &agentpb.ListProcessesRequest{ContainerId: "c", Format: "json"})
	if err != nil || !strings.HasPrefix(string(list.GetProcessList()), "[") || len(list.ProcessList) < 3 {
		t.Errorf("list %q, %v", list.GetProcessList(), err)
	}
	list, err = g.agent.ListProcesses(t.Context(), &agentpb.ListProcessesRequest{ContainerId: "c", Args: []string{"-ef"}})
	if err != nil || !strings.Contains(string(list.GetProcessList()), "sleep 1000\n") {
		t.Errorf("list %q, %v", list.GetProcessList(), err)
	}
}

func TestSignals(t *testing.T) {
	g := startAgent(t).sandbox()
	s := g.streams()
	g.run("c", shell("trap 'echo got; exit 7' TERM; sleep 1000 & echo up; wait"), s)
	if up := g.read(s.stdout, 3); up != "up\n" {
		t.Fatal(up)
	}
	signal := func(signal uint32, all bool) error {
		_, err := g.agent.SignalProcess(t.Context(), &agentpb.SignalProcessRequest{ContainerId: "c", Signal: signal, All: all})
		return err
	}
	if err := signal(uint32(unix.SIGTERM), false); err != nil {
		t.Error(err)
	}
	if exit := g.wait("c", ""); exit.Status != 7 {
		t.Errorf("status %d, want 7", exit.Status)
	}
	g.code("signal to an exited process", signal(9, false), ttrpc.NotFound, "exited")
	if err := signal(9, true); err != nil {
		t.Errorf("signal to all of nothing: %v", err)
	}
}

func TestDestroySandboxEndsTheAgent(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("a", process("sleep", "1000"), g.streams())
	g.run("b", shell("trap '' TERM; sleep 1000 & wait"), streams{})
	if _, err := g.agent.DestroySandbox(t.Context(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Error(err)
	}
	state := <-g.exited
	g.exited <- state
	if !state.Success() {
		t.Errorf("the agent ended with %v", state)
	}
}

func TestExitedExecsStayKnownForAWhile(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", process("sleep", "1000"), streams{})
	const n = 50
	known := func(i int) bool {
		ctx, cancel := context.WithTimeout(t.Context(), pace.Of(time.Minute))
		defer cancel()
		_, err := g.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: "c", ExecId: fmt.Sprintf("e%d", i)})
		return ttrpc.CodeOf(err) != ttrpc.NotFound
	}
	for i := range n {
		if err := g.exec("c", fmt.Sprintf("e%d", i), process("true"), streams{}); err != nil {
			t.Fatal(err)
		}
		if !known(i) {
			t.Errorf("exec %d is unknown right after its exit", i)
		}
	}
	if known(0) || !known(n-2) {
		t.Errorf("first one known: %v, last but one: %v", known(0), known(n-2))
	}
}

func TestPodsPIDNamespace(t *testing.T) {
	g := startAgent(t).sandbox()
	create := func(id string, s streams) {
		t.Helper()
		_, err := g.agent.CreateContainer(t.Context(), &agentpb.CreateContainerRequest{
			ContainerId: id, OCI: g.spec(id, shell("sleep 1000 & echo $$; wait")), SandboxPidns: true, StdoutPort: s.stdout.number(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := call(g, id); err != nil {
			t.Fatal(err)
		}
	}
	first, second := streams{stdout: g.dial()}, streams{stdout: g.dial()}
	create("pause", first)
	create("app", second)
	if pid := g.read(first.stdout, 2); pid != "1\n" {
		t.Errorf("the first container's process is %q", pid)
	}
	if pid := g.read(second.stdout, 1); pid == "1" {
		t.Error("the second container has a pid namespace of its own")
	}
	g.remove("app")
	g.remove("pause")
}
