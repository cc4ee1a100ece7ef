//go:build vm

package agentvm

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

// unopened is the port of a stream that nobody opens.
const unopened = 4_000_000

// stuck is a call that does not come back by itself.
type stuck struct {
	name string
	call func(ctx context.Context, agent *agentpb.AgentServiceClient) error
	// waits reports whether the agent is at it.
	waits func() bool
}

// stuckCalls are calls that wait for ever, or for long, each for something else.
func stuckCalls(v *VM) []stuck {
	hooked := Spec(Process("true"))
	hooked.Hooks = &ocipb.Hooks{CreateRuntime: []*ocipb.Hook{{Path: Rootfs + "/bin/busybox", Args: []string{"sleep", "100000"}, Timeout: 100000}}}
	creating := func(id string) func() bool {
		return func() bool {
			_, err := v.Agent.StatsContainer(v.Context(), &agentpb.StatsContainerRequest{ContainerId: id})
			return ttrpc.CodeOf(err) == ttrpc.FailedPrecondition
		}
	}
	always := func() bool { return true }
	return []stuck{
		{"CreateContainer with a stream that nobody opens", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.CreateContainer(ctx, &agentpb.CreateContainerRequest{ContainerId: "stream", OCI: Spec(Process("true")), StdoutPort: unopened})
			return err
		}, creating("stream")},
		{"CreateContainer with a hook that does not end", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.CreateContainer(ctx, &agentpb.CreateContainerRequest{ContainerId: "hook", OCI: hooked})
			return err
		}, creating("hook")},
		{"ExecProcess with a stream that nobody opens", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.ExecProcess(ctx, &agentpb.ExecProcessRequest{ContainerId: "deaf", ExecId: "stream", Process: Process("true"), StdinPort: unopened + 1})
			return err
		}, func() bool {
			_, err := v.Agent.SignalProcess(v.Context(), &agentpb.SignalProcessRequest{ContainerId: "deaf", ExecId: "stream"})
			return ttrpc.CodeOf(err) == ttrpc.FailedPrecondition
		}},
		{"WriteStdin of more than the pipe takes", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: "deaf", Data: make([]byte, 1<<20)})
			return err
		}, always},
		{"ReadStdout of a process that says nothing", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: "deaf", Len: 1})
			return err
		}, always},
		{"WaitProcess of a process that does not end", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: "deaf"})
			return err
		}, always},
		{"GetOOMEvent without an event", func(ctx context.Context, agent *agentpb.AgentServiceClient) error {
			_, err := agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
			return err
		}, always},
	}
}

// TestWhatIsStuckDelaysNobody lets many calls of one client wait, several of each
// kind, and has another client served meanwhile: it would not be if something was
// held that has to be shared.
func TestWhatIsStuckDelaysNobody(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	v.Run("deaf", Spec(Process("sleep", "100000")), Streams{})
	v.Run("paused", Spec(Process("sleep", "100000")), Streams{})
	if _, err := v.Agent.PauseContainer(t.Context(), &agentpb.PauseContainerRequest{ContainerId: "paused"}); err != nil {
		t.Fatal(err)
	}
	client := v.Connect()
	agent := agentpb.NewAgentServiceClient(client)
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	var waiting sync.WaitGroup
	for _, s := range stuckCalls(v) {
		for range 3 {
			waiting.Go(func() {
				// Ones that cannot wait, for a name is taken, are as good.
				if err := s.call(ctx, agent); err == nil {
					t.Errorf("%s has come back", s.name)
				}
			})
		}
		v.becomes(s.name+" waits", s.waits)
	}
	v.Alive()
	for i := range 3 {
		id := fmt.Sprintf("other%d", i)
		v.Run(id, Spec(Process("sleep", "100000")), Streams{})
		out := v.Stream()
		if err := v.Exec(id, "e", Shell("echo served; exit 3"), Streams{Stdout: out}); err != nil {
			t.Fatal(err)
		}
		exit := v.Wait(id, "e")
		if text := v.Read(out, exit.StdoutBytes); exit.Status != 3 || text != "served\n" {
			t.Errorf("exec: status %d, output %q", exit.Status, text)
		}
		v.Remove(id)
	}
	if _, err := v.Agent.GetMetrics(t.Context(), &agentpb.GetMetricsRequest{}); err != nil {
		t.Error(err)
	}
	v.Remove("paused")
	giveUp()
	waiting.Wait()
	_ = client.Close()
	v.Remove("deaf")
	// Gone with their client, and with them their names.
	for _, id := range []string{"stream", "hook"} {
		v.becomes("the name "+id+" is free", func() bool {
			err := v.Create(id, Spec(Process("true")), Streams{})
			if code := ttrpc.CodeOf(err); err != nil && code != ttrpc.AlreadyExists {
				t.Fatal(err)
			}
			return err == nil
		})
	}
}

// becomes waits for a condition that nothing tells of.
func (v *VM) becomes(what string, condition func() bool) {
	v.Helper()
	for deadline := time.Now().Add(pace.Of(waitLimit)); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			v.Fatalf("it never became so: %s", what)
		}
	}
}

// TestAClientThatGoesAwayTakesItsWaitingAlong lets one client wait many times for
// output, and go away. If its calls still waited each would take a piece of what
// comes, and another client would get none of it.
func TestAClientThatGoesAwayTakesItsWaitingAlong(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	v.Run("cat", Spec(Process("cat")), Streams{})
	const calls, few = 200, 50
	read := &agentpb.ReadStreamRequest{ContainerId: "cat", Len: 1}
	first := v.Connect()
	var waiting sync.WaitGroup
	for range calls {
		waiting.Go(func() { _, _ = agentpb.NewAgentServiceClient(first).ReadStdout(t.Context(), read) })
	}
	// Answered after all of them have been received, on the same connection.
	if _, err := healthpb.NewHealthClient(first).Check(t.Context(), &healthpb.CheckRequest{}); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	waiting.Wait()
	got := make(chan error, 1)
	go func() {
		_, err := v.Agent.ReadStdout(t.Context(), read)
		got <- err
	}()
	for n := 0; ; n++ {
		if n == few {
			t.Fatalf("of %d bytes none has come: the client that is gone takes them", n)
		}
		if _, err := v.Agent.WriteStdin(t.Context(), &agentpb.WriteStreamRequest{ContainerId: "cat", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-time.After(time.Second): // the agent has yet to learn of the end
		}
	}
}

// TestStreamsPushBack lets a process write more than anybody reads: it has to
// stop, and everything has to arrive once it is read.
func TestStreamsPushBack(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	const size = 16 << 20
	s := Streams{Stdout: v.Stream()}
	script := fmt.Sprintf("head -c %d /dev/zero; echo end >&2", size)
	s.Stderr = v.Stream()
	if err := v.Exec("probe", "writer", Shell(script), s); err != nil {
		t.Fatal(err)
	}
	// What has been sent and not read is bounded by the buffers between, so the
	// process cannot have got to its end, however long it is given.
	if m := probe.Await(func(Memory) bool { return true }); m.Anonymous > 8<<20 {
		t.Errorf("the agent holds %d bytes for a reader that does not read", m.Anonymous)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := v.Agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: "probe", ExecId: "writer"}); err == nil {
		t.Error("the process has ended though nobody reads what it writes")
	}
	n, err := io.Copy(io.Discard, s.Stdout)
	if n != size || err != nil {
		t.Errorf("%d bytes arrive, want %d: %v", n, size, err)
	}
	if text, err := io.ReadAll(s.Stderr); strings.TrimSpace(string(text)) != "end" || err != nil {
		t.Errorf("stderr %q, %v", text, err)
	}
	if exit := v.Wait("probe", "writer"); exit.Status != 0 || exit.StdoutBytes != size {
		t.Errorf("exit %+v", exit)
	}
}
