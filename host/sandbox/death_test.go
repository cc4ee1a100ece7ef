package sandbox

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/host/stdio"
)

// Only death is death: what follows is answered, and ends nothing.

func TestAWaitThatIsRefusedIsRepeated(t *testing.T) {
	for _, code := range []ttrpc.Code{ttrpc.ResourceExhausted, ttrpc.Unavailable, ttrpc.Internal, ttrpc.NotFound, ttrpc.DeadlineExceeded} {
		t.Run(code.String(), func(t *testing.T) {
			f := newFixture(t)
			s := f.boot()
			f.parts.Faults.Fail("agent.WaitProcess", 2, ttrpc.Errorf(code, "no"))
			c := f.create(s, "c1", "exit", "7")
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if status := awaitExit(t, c.Init()); status != 7 {
				t.Errorf("status %d", status)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAContainerWhoseWaitIsAlwaysRefusedCanBeDeleted(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.parts.Faults.Fail("agent.WaitProcess", -1, ttrpc.Errorf(ttrpc.ResourceExhausted, "no"))
	c := f.create(s, "c1", "sleep")
	select {
	case <-c.Init().Done():
		t.Error("a refusal is an exit")
	case <-s.Done():
		t.Error("a refusal ends the sandbox")
	case <-time.After(200 * time.Millisecond): // some refusals later
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if status := awaitExit(t, c.Init()); status != statusKilled {
		t.Errorf("status %d", status)
	}
}

func TestOnlySilenceIsIllHealth(t *testing.T) {
	for name, tt := range map[string]struct {
		answer error
		sick   bool
	}{
		"well":                   {nil, false},
		"an error is an answer":  {ttrpc.Errorf(ttrpc.Internal, "no"), false},
		"and so is want of room": {ttrpc.Errorf(ttrpc.ResourceExhausted, "no"), false},
		"silence":                {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				server := ttrpc.NewServer(ttrpc.ServerOptions{})
				gone := make(chan struct{})
				healthpb.RegisterHealth(server).Check(func(ctx context.Context, _ *healthpb.CheckRequest) (*healthpb.HealthCheckResponse, error) {
					if tt.sick {
						<-gone
					}
					return &healthpb.HealthCheckResponse{}, tt.answer
				})
				go func() { _ = server.ServeConn(t.Context(), there) }()
				s := &Sandbox{agent: newAgentConn(here)}
				if err := s.checkHealth(); (err != nil) != tt.sick {
					t.Errorf("checked: %v", err)
				}
				close(gone)
				_ = s.agent.client.Close()
			})
		})
	}
}

func TestAFirstProcessThatSurvivesSIGKILLEndsTheSandbox(t *testing.T) {
	for name, kill := range map[string]func(ctx context.Context, c *Container) error{
		"alone": func(ctx context.Context, c *Container) error { return c.Init().Signal(ctx, sigkill) },
		"all":   func(ctx context.Context, c *Container) error { return c.Kill(ctx, sigkill) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.agent.KillTimeout = 100 * time.Millisecond
			s := f.boot()
			c, other := f.create(s, "c1", "sleep"), f.create(s, "c2", "sleep")
			f.parts.Faults.Fail("agent.SignalProcess", -1, ttrpc.Errorf(ttrpc.NotFound, "there is no such process"))
			if err := kill(t.Context(), c); err == nil {
				t.Error("the agent's error is lost")
			}
			awaitDone(t, s)
			if err := s.Err(); err == nil || !strings.Contains(err.Error(), "container c1 did not end within 100ms of SIGKILL") {
				t.Errorf("the sandbox ended with %v", err)
			}
			for _, p := range []*Process{c.Init(), other.Init()} {
				if status := awaitExit(t, p); status != statusKilled {
					t.Errorf("%s has status %d", p, status)
				}
			}
		})
	}
}

func TestAProcessThatEndsOfSIGKILLEndsNothingElse(t *testing.T) {
	f := newFixture(t)
	f.agent.KillTimeout = 100 * time.Millisecond
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	if err := c.Init().Signal(t.Context(), sigkill); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, c.Init())
	select {
	case <-s.Done():
		t.Error(s.Err())
	case <-time.After(300 * time.Millisecond):
	}
}

func TestManyExecsEndNoPod(t *testing.T) {
	const execs = 2000
	f := newFixture(t)
	s := f.boot()
	c := f.create(s, "c1", "sleep")
	var all []*Process
	for n := range execs {
		p, err := c.Exec(t.Context(), fmt.Sprint("e", n), &specs.Process{Args: []string{"sleep"}, Cwd: "/"}, stdio.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := s.checkHealth(); err != nil {
		t.Error(err)
	}
	select {
	case <-s.Done():
		t.Fatal(s.Err())
	default:
	}
	if err := c.Kill(t.Context(), sigkill); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if status := awaitExit(t, p); status != statusKilled {
			t.Fatalf("%s has status %d", p, status)
		}
	}
}

func TestAnExitStatusIsAByte(t *testing.T) {
	for told, want := range map[int32]uint32{0: 0, 137: 137, 255: 255, 256: 255, -1: 255, 1 << 30: 255} {
		if got := exitStatus(told); got != want {
			t.Errorf("%d becomes %d, want %d", told, got, want)
		}
	}
}

func TestAnExitIsNeitherInTheFutureNorBeforeTheStart(t *testing.T) {
	start := time.Now().Add(-time.Minute)
	p := new(Process)
	p.startAsked.Store(&start)
	for name, tt := range map[string]struct{ told, from, to time.Time }{
		"a clock that is slow": {start.Add(-time.Second), start, start},
		"one that is right":    {start.Add(time.Second), start.Add(time.Second), start.Add(time.Second)},
		"one that is fast":     {time.Now().Add(time.Hour), start.Add(time.Minute), time.Now().Add(time.Minute)},
		"none":                 {time.Unix(0, 0), start.Add(time.Minute), time.Now().Add(time.Minute)},
	} {
		if got := p.exitTime(tt.told.UnixNano()); got.Before(tt.from.Round(0)) || got.After(tt.to) {
			t.Errorf("%s: %s, want %s to %s", name, got, tt.from, tt.to)
		}
	}
}

func TestAnAnswerOfTheAgentIsBounded(t *testing.T) {
	here, there := net.Pipe()
	server := ttrpc.NewServer(ttrpc.ServerOptions{})
	service := agentpb.RegisterAgentService(server)
	large := strings.Repeat("x", maxAnswer+1)
	service.GetMetrics(func(context.Context, *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
		return &agentpb.Metrics{Metrics: large}, nil
	})
	service.GetDiagnosticData(func(context.Context, *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
		return &agentpb.GetDiagnosticDataResponse{Data: large}, nil
	})
	service.GetOOMEvent(func(context.Context, *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
		return &agentpb.OOMEvent{ContainerId: large}, nil
	})
	served := make(chan struct{})
	go func() { defer close(served); _ = server.ServeConn(t.Context(), there) }()
	agent := newAgentConn(here)
	for name, call := range map[string]func() error{
		"metrics": func() error {
			_, err := agent.service.GetMetrics(t.Context(), &agentpb.GetMetricsRequest{})
			return err
		},
		"diagnostic": func() error {
			_, err := agent.service.GetDiagnosticData(t.Context(), &agentpb.GetDiagnosticDataRequest{})
			return err
		},
		"an OOM event": func() error {
			_, err := agent.service.GetOOMEvent(t.Context(), &agentpb.GetOOMEventRequest{})
			return err
		},
	} {
		if err := call(); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case <-agent.lost():
		t.Error("a large answer breaks the connection")
	default:
	}
	_ = agent.client.Close()
	<-served
}
