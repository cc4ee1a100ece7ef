//go:build vm

package agentvm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/guest/sandbox"
	"kata/test/pace"
)

// The bounds of the agent (docs/agent-api.md).
const (
	maxConns     = ttrpc.DefaultMaxConns
	maxInFlight  = ttrpc.DefaultMaxInFlight
	maxUnclaimed = 256
)

// fill makes calls, that wait, until one is refused, on as many connections as
// that takes, and returns the refusal.
func (v *VM) fill(most int, call func(ctx context.Context, agent *agentpb.AgentServiceClient, n int) error) error {
	v.Helper()
	ctx, cancel := context.WithCancel(v.Context())
	refused := make(chan error, most)
	done := make(chan struct{}, most)
	calls := 0
	for range (most + maxInFlight - 2) / (maxInFlight - 1) {
		client := v.Connect()
		defer client.Close()
		agent := agentpb.NewAgentServiceClient(client)
		for range maxInFlight - 1 {
			if calls == most {
				break
			}
			n := calls
			calls++
			go func() {
				defer func() { done <- struct{}{} }()
				if err := call(ctx, agent, n); ctx.Err() == nil {
					refused <- err
				}
			}()
		}
	}
	var err error
	select {
	case err = <-refused:
	case <-time.After(pace.Of(waitLimit)):
		err = fmt.Errorf("%d calls, and none is refused", most)
	}
	cancel()
	for range calls {
		<-done
	}
	return err
}

func TestOneMoreIsRefused(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	v.Run("c", Spec(Process("sleep", "100000")), Streams{})
	for _, tt := range []struct {
		what string
		most int
		want string
		call func(ctx context.Context, agent *agentpb.AgentServiceClient, n int) error
	}{
		{"containers", sandbox.MaxContainers + 1, fmt.Sprintf("%d containers", sandbox.MaxContainers), func(ctx context.Context, agent *agentpb.AgentServiceClient, n int) error {
			_, err := agent.CreateContainer(ctx, &agentpb.CreateContainerRequest{ContainerId: fmt.Sprint("c", n), OCI: Spec(Process("true")), StdoutPort: unopened + uint32(n)})
			return err
		}},
		{"processes", sandbox.MaxProcesses + 1, fmt.Sprintf("%d processes", sandbox.MaxProcesses), func(ctx context.Context, agent *agentpb.AgentServiceClient, n int) error {
			_, err := agent.ExecProcess(ctx, &agentpb.ExecProcessRequest{ContainerId: "c", ExecId: fmt.Sprint("e", n), Process: Process("true"), StdoutPort: 2*unopened + uint32(n)})
			return err
		}},
	} {
		err := v.fill(tt.most, tt.call)
		if ttrpc.CodeOf(err) != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want ResourceExhausted with %q", tt.what, err, tt.want)
		}
		v.Alive()
	}
	// Requests that take long, on one connection; waits for exits do not count.
	client := v.Connect()
	agent, health := agentpb.NewAgentServiceClient(client), healthpb.NewHealthClient(client)
	for range maxInFlight {
		go func() {
			// Calls of clients that are gone may still be counted for a moment.
			for code := ttrpc.ResourceExhausted; code == ttrpc.ResourceExhausted; time.Sleep(20 * time.Millisecond) {
				_, err := agent.ReadStdout(t.Context(), &agentpb.ReadStreamRequest{ContainerId: "c", Len: 1})
				code = ttrpc.CodeOf(err)
			}
		}()
	}
	v.becomes("a request too many is refused", func() bool {
		_, err := health.Check(t.Context(), &healthpb.CheckRequest{})
		return ttrpc.CodeOf(err) == ttrpc.ResourceExhausted && strings.Contains(err.Error(), fmt.Sprint(maxInFlight, " requests"))
	})
	v.Alive() // another connection has its own bound
}

// closes reports whether the agent closes a connection.
func closes(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(pace.Of(waitLimit))); err != nil {
		return true
	}
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !os.IsTimeout(err)
}

func TestStreamsThatNobodyNamesAreBounded(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	for range maxUnclaimed {
		v.Stream()
	}
	if one, err := v.guest.Dial(t.Context(), api.PortStreams); err == nil && !closes(one) {
		t.Errorf("stream connection %d is kept", maxUnclaimed+1)
	}
	probe.Memory() // named streams are not in the way
}

// TestAFloodOfConnections opens more connections than the agent serves, each with
// half a frame, and thousands one after the other with a piece of nonsense.
func TestAFloodOfConnections(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	idle := probe.Await(func(Memory) bool { return true })
	var open []net.Conn
	for range 2 * maxConns {
		conn, err := v.Dial()
		if err != nil {
			continue // reset before it was made
		}
		_, _ = conn.Write(append(FrameHeader(ttrpc.MaxMessage, 1), "half"...))
		open = append(open, conn)
	}
	v.Alive()
	if m := probe.Memory(); m.Anonymous > idle.Anonymous+16<<20 {
		t.Errorf("%v with half a frame on each connection", m)
	}
	closed := make(chan bool, len(open))
	for _, conn := range open {
		go func() { closed <- closes(conn) }()
	}
	for range len(open) - maxConns { // as many as are too many
		if !<-closed {
			t.Error("a connection too many is kept")
		}
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	for i := range 3000 {
		conn, err := v.Dial()
		if err != nil {
			continue
		}
		_, _ = conn.Write([]byte("nonsense of a few bytes")[:i%24])
		_ = conn.Close()
	}
	v.Alive()
	after := probe.Await(func(m Memory) bool { return m.Anonymous <= idle.Anonymous+maxGrowth })
	t.Logf("idle: %v; afterwards: %v", idle, after)
	if after.Anonymous > idle.Anonymous+maxGrowth {
		t.Errorf("%d more bytes are anonymous", after.Anonymous-idle.Anonymous)
	}
}

// TestClientsThatDoNotRead send requests with large answers and read none.
func TestClientsThatDoNotRead(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	idle := probe.Await(func(Memory) bool { return true })
	const clients, requests = 8, 1000
	conns := make([]net.Conn, clients)
	for i := range conns {
		var err error
		if conns[i], err = v.Dial(); err != nil {
			t.Fatal(err)
		}
		written := make(chan struct{})
		go func() {
			defer close(written)
			for n := range requests {
				if _, err := conns[i].Write(Frame(uint32(2*n+1), "grpc.AgentService", "GetMetrics", nil)); err != nil {
					return // the agent reads no more of them
				}
			}
		}()
		defer func() { <-written }()
		defer conns[i].Close()
	}
	v.becomes("the agent has answers that it cannot send", func() bool {
		_, err := v.Agent.GetMetrics(t.Context(), &agentpb.GetMetricsRequest{})
		if code := ttrpc.CodeOf(err); err != nil && code != ttrpc.ResourceExhausted {
			t.Fatal(err)
		}
		return probe.Memory().Anonymous > idle.Anonymous+maxGrowth
	})
	for range 5 {
		v.Alive()
		if m := probe.Await(func(Memory) bool { return true }); m.Anonymous > idle.Anonymous+64<<20 {
			t.Errorf("clients that do not read make the agent hold %v", m)
		}
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	after := probe.Await(func(m Memory) bool { return m.Anonymous <= idle.Anonymous+8*maxGrowth })
	t.Logf("idle: %v; afterwards: %v", idle, after)
	// The runtime never frees what describes a goroutine; there were 2000.
	if after.Anonymous > idle.Anonymous+8*maxGrowth {
		t.Errorf("%d more bytes are anonymous", after.Anonymous-idle.Anonymous)
	}
}

// TestLargeRequestsOfNothing sends requests that are small on the wire and large
// once decoded, as large as they may be, all at once.
func TestLargeRequestsOfNothing(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	client := v.Connect()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(waitLimit))
	defer cancel()
	const requests = 200
	codes := make(chan ttrpc.Code, requests)
	for i := range requests {
		// Storages without content, fewer than 32768 in half of the cases.
		payload := Raw(strings.Repeat("\x2a\x00", 30_000+5_000*(i%2)))
		go func() {
			err := client.Call(ctx, "grpc.AgentService", "CreateContainer", payload, Raw{})
			codes <- ttrpc.CodeOf(err)
		}()
	}
	got := make(map[ttrpc.Code]int)
	for range requests {
		got[<-codes]++
	}
	t.Log(got)
	if got[ttrpc.InvalidArgument]+got[ttrpc.ResourceExhausted] != requests || got[ttrpc.ResourceExhausted] < requests/2 {
		t.Errorf("answers by code: %v", got)
	}
	v.Alive()
	// A frame that is too large is refused and the connection lives on.
	conn, err := v.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = conn.Write(Frame(1, "grpc.Health", "Check", make([]byte, ttrpc.MaxMessage+1))) }()
	answer := make([]byte, 200)
	n, err := io.ReadAtLeast(conn, answer, 20)
	if err != nil || !strings.Contains(string(answer[:n]), "exceeds 4194304") {
		t.Errorf("a frame of more than 4 MiB is answered %q, %v", answer[:n], err)
	}
}
