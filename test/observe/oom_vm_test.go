//go:build vm

package observe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/test/agentvm"
	"kata/test/pace"
)

// limit bounds what has to happen soon, on a machine of any speed.
const limit = 2 * time.Minute

// hungry is a command that takes memory until it is killed.
const hungry = "tail /dev/zero"

// limited is a container with 16 MiB that runs a script.
func limited(script string) *ocipb.Spec {
	spec := agentvm.Spec(agentvm.Shell(script))
	spec.Linux.Resources = &ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: 16 << 20, Swap: 16 << 20}}
	return spec
}

// recorder keeps the order of the answers on a connection.
type recorder struct {
	io.ReadWriteCloser
	mu   sync.Mutex
	read bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.ReadWriteCloser.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read.Write(p[:n])
	return n, err
}

// recorded returns calls on a connection of its own, and its recorder.
func recorded(t *testing.T, v *agentvm.VM) (*agentpb.AgentServiceClient, *recorder) {
	t.Helper()
	conn, err := v.Dial()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{ReadWriteCloser: conn}
	client := ttrpc.NewClient(r)
	t.Cleanup(func() { _ = client.Close() })
	return agentpb.NewAgentServiceClient(client), r
}

// event takes an event, within a time that nothing takes.
func event(t *testing.T, agent *agentpb.AgentServiceClient) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(limit))
	defer cancel()
	resp, err := agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
	if err != nil {
		t.Error(err)
	}
	return resp.GetContainerId()
}

// none fails the test if there is an event. It is to be called when all exits are
// known, which is when all events are there.
func none(t *testing.T, agent *agentpb.AgentServiceClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	resp, err := agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one event more, of %q, %v", resp.GetContainerId(), err)
	}
}

// TestOOMBeforeExit looks at the order of the answers on the wire.
func TestOOMBeforeExit(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{VCPUs: 2}).Sandbox()
	agent, wire := recorded(t, v)
	for i := range 40 {
		id := fmt.Sprintf("c%d", i)
		if err := v.Create(id, limited("exec "+hungry), agentvm.Streams{}); err != nil {
			t.Fatal(err)
		}
		// On this connection, in this order: an odd number each (doc.go of
		// api/ttrpc). The last one starts the process.
		var calls sync.WaitGroup
		asked := make(chan struct{})
		calls.Go(func() {
			close(asked)
			if got := event(t, agent); got != id {
				t.Errorf("event of %q, want %q", got, id)
			}
		})
		<-asked
		calls.Go(func() {
			resp, err := agent.WaitProcess(t.Context(), &agentpb.WaitProcessRequest{ContainerId: id})
			if err != nil || resp.Status != 137 || resp.OomEvents != 1 {
				t.Errorf("exit %v, %v", resp, err)
			}
		})
		if _, err := v.Agent.StartContainer(t.Context(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		calls.Wait()
		if order := wire.order(); len(order) != 2 || order[0] != "event" || order[1] != "exit" {
			t.Fatalf("round %d: the answers came as %v", i, order)
		}
		v.Remove(id)
	}
	none(t, agent)
}

// order names the answers by what they hold.
func (r *recorder) order() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := r.read.Bytes(); len(b) >= 10; {
		size := 10 + int(binary.BigEndian.Uint32(b))
		// Field 1 of the answer's payload: a string for an event, a number for
		// an exit.
		payload := b[10:size]
		switch {
		case len(payload) > 2 && payload[0] == 0x12 && payload[2] == 0x0a:
			names = append(names, "event")
		case len(payload) > 2 && payload[0] == 0x12 && payload[2] == 0x08:
			names = append(names, "exit")
		default:
			names = append(names, fmt.Sprintf("%x", payload))
		}
		b = b[size:]
	}
	r.read.Reset()
	return names
}

// TestOOMOneAfterTheOther: every kill of a container is an event, and its exit
// says how many.
func TestOOMOneAfterTheOther(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{VCPUs: 2}).Sandbox()
	agent := v.Agent
	for i := range 10 {
		id := fmt.Sprintf("c%d", i)
		if err := v.Create(id, limited(hungry+"; "+hungry+"; "+hungry+"; exit 7"), agentvm.Streams{}); err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		calls.Go(func() {
			for range 3 {
				if got := event(t, agent); got != id {
					t.Errorf("event of %q, want %q", got, id)
				}
			}
		})
		calls.Go(func() {
			resp, err := agent.WaitProcess(t.Context(), &agentpb.WaitProcessRequest{ContainerId: id})
			if err != nil || resp.Status != 7 || resp.OomEvents != 3 {
				t.Errorf("exit %v, %v", resp, err)
			}
		})
		if _, err := v.Agent.StartContainer(t.Context(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		calls.Wait()
		v.Remove(id)
	}
	none(t, agent)
}

// TestOOMOfAGroup: all processes die at once, and each is an event.
func TestOOMOfAGroup(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{VCPUs: 2}).Sandbox()
	spec := limited("sleep 1000 & sleep 1000 & sleep 1000 & " + hungry)
	spec.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
	if err := v.Create("group", spec, agentvm.Streams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Agent.StartContainer(t.Context(), &agentpb.StartContainerRequest{ContainerId: "group"}); err != nil {
		t.Fatal(err)
	}
	exit := v.Wait("group", "")
	if exit.Status != 137 || exit.OomEvents < 5 { // a shell and four others
		t.Errorf("exit %v", exit)
	}
	for range exit.OomEvents {
		if id := event(t, v.Agent); id != "group" {
			t.Errorf("event of %q", id)
		}
	}
	none(t, v.Agent)
}

// TestOOMEverywhere: execs of several containers at once, and several clients that
// ask.
func TestOOMEverywhere(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{VCPUs: 2}).Sandbox()
	const kills = 4
	want := map[string]int{}
	for i := range 4 {
		id := fmt.Sprintf("c%d", i)
		want[id] = kills
		v.Run(id, limited("sleep 100000"), agentvm.Streams{})
	}
	var mu sync.Mutex
	got := map[string]int{}
	total := make(chan struct{}, len(want)*kills)
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 3 {
		agent := agentpb.NewAgentServiceClient(v.Connect())
		asking.Go(func() {
			for {
				resp, err := agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
				if err != nil {
					return
				}
				mu.Lock()
				got[resp.ContainerId]++
				mu.Unlock()
				total <- struct{}{}
			}
		})
	}
	var running sync.WaitGroup
	for id := range want {
		running.Go(func() {
			for i := range kills {
				exec := fmt.Sprintf("e%d", i)
				if err := v.Exec(id, exec, agentvm.Shell("exec "+hungry), agentvm.Streams{}); err != nil {
					t.Error(err)
					return
				}
				if exit := v.Wait(id, exec); exit.Status != 137 || exit.OomEvents != uint64(i+1) {
					t.Errorf("exit %v of exec %d", exit, i)
				}
			}
		})
	}
	running.Wait()
	for range len(want) * kills {
		<-total
	}
	for id := range want {
		v.Remove(id)
	}
	stop()
	asking.Wait()
	if !maps.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// TestOOMIsNotLost: clients that go away, calls that time out, nobody who asks.
func TestOOMIsNotLost(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{}).Sandbox()
	kill := func(id string) {
		t.Helper()
		v.Run(id, limited("exec "+hungry), agentvm.Streams{})
		if exit := v.Wait(id, ""); exit.Status != 137 {
			t.Errorf("exit %v", exit)
		}
	}
	leaver := v.Connect()
	asked := make(chan error)
	go func() {
		_, err := agentpb.NewAgentServiceClient(leaver).GetOOMEvent(t.Context(), &agentpb.GetOOMEventRequest{})
		asked <- err
	}()
	none(t, v.Agent) // long enough for the other call to be there
	_ = leaver.Close()
	if err := <-asked; !errors.Is(err, ttrpc.ErrClosed) {
		t.Error(err)
	}
	kill("a")
	if id := event(t, v.Agent); id != "a" {
		t.Errorf("event of %q", id)
	}
	kill("b")
	v.Remove("b")
	kill("a2")
	for _, want := range []string{"b", "a2"} {
		if id := event(t, v.Agent); id != want {
			t.Errorf("event of %q, want %q", id, want)
		}
	}
	none(t, v.Agent)
}
