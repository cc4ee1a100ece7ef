package guestvmtest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/host/vsock"
)

// statusKilled is 128 + SIGKILL.
const statusKilled = 137

// Agent is a fake of the agent. Its containers are entries of a table and its
// processes goroutines, which do what their first argument says: "exit N" ends
// with N, "cat" copies its input to its output until that ends, anything else
// sleeps until it is killed. Each method is a step of its name with "agent."
// before it.
type Agent struct {
	faults *Faults
	oom    chan string

	mu         sync.Mutex
	containers map[string]*container
	sandbox    *agentpb.CreateSandboxRequest
	destroyed  bool
	streams    map[uint32]chan net.Conn
	processes  sync.WaitGroup
	server     *ttrpc.Server
}

type container struct {
	ready     bool
	abandon   context.CancelFunc // ends the creation
	created   chan struct{}      // closed when the creation has ended
	started   bool
	processes map[string]*program
}

// NewAgent returns an agent.
func NewAgent(f *Faults) *Agent {
	return &Agent{
		faults: f, containers: make(map[string]*container), streams: make(map[uint32]chan net.Conn), oom: make(chan string),
	}
}

// Containers returns the ids of the containers there are, those being created
// included, in order.
func (a *Agent) Containers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for id := range a.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Sandbox returns what the host asked for, nil before it did; destroyed tells
// whether it asked for the end.
func (a *Agent) Sandbox() (request *agentpb.CreateSandboxRequest, destroyed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sandbox, a.destroyed
}

// KilledForMemory tells the host of an OOM kill; it waits until the host asks.
func (a *Agent) KilledForMemory(ctx context.Context, id string) {
	select {
	case a.oom <- id:
	case <-ctx.Done():
	}
}

// Run is the guest: it listens, tells the host, and serves until ctx ends.
func (a *Agent) Run(ctx context.Context, g Guest) {
	calls, err := g.Listen(api.PortAgent)
	if err != nil {
		return
	}
	streams, err := g.Listen(api.PortStreams)
	if err != nil {
		return
	}
	// As the agent has it: what waits takes no room of other calls.
	server := ttrpc.NewServer(ttrpc.ServerOptions{
		Waits: func(_, method string) bool { return method == "WaitProcess" || method == "GetOOMEvent" },
	})
	a.Register(server)
	a.mu.Lock()
	a.server = server
	a.mu.Unlock()
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(ctx, acceptor{calls}) })
	all.Go(func() { a.acceptStreams(streams) })
	if err := a.faults.at(ctx, "agent.ready"); err == nil {
		if conn, err := g.Dial(ctx, api.PortReady); err == nil {
			_ = conn.Close()
		}
	}
	<-ctx.Done()
	_, _ = calls.Close(), streams.Close()
	_ = server.Close()
	a.mu.Lock()
	for _, c := range a.containers {
		c.abandon()
		for _, p := range c.processes {
			p.kill()
		}
	}
	a.mu.Unlock()
	all.Wait()
	a.processes.Wait()
}

type acceptor struct{ net.Listener }

func (a acceptor) Accept() (io.ReadWriteCloser, error) { return a.Listener.Accept() }

// acceptStreams takes connections, which are told apart by the host's port.
func (a *Agent) acceptStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.stream(portOf(c.RemoteAddr())) <- c
	}
}

func portOf(addr net.Addr) uint32 {
	if a, ok := addr.(*vsock.Addr); ok {
		return a.Port
	}
	return 0
}

func (a *Agent) stream(port uint32) chan net.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams[port] == nil {
		a.streams[port] = make(chan net.Conn, 1)
	}
	return a.streams[port]
}

func (a *Agent) take(ctx context.Context, port uint32) (net.Conn, error) {
	if port == 0 {
		return nil, nil
	}
	select {
	case c := <-a.stream(port):
		return c, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Register registers the methods that a sandbox calls.
func (a *Agent) Register(server *ttrpc.Server) {
	healthpb.RegisterHealth(server).Check(func(ctx context.Context, _ *healthpb.CheckRequest) (*healthpb.HealthCheckResponse, error) {
		return &healthpb.HealthCheckResponse{}, a.faults.at(ctx, "agent.Check")
	})
	s := agentpb.RegisterAgentService(server)
	s.SetGuestDateTime(func(ctx context.Context, _ *agentpb.SetGuestDateTimeRequest) (*agentpb.Empty, error) {
		return &agentpb.Empty{}, a.faults.at(ctx, "agent.SetGuestDateTime")
	})
	s.ReseedRandomDev(func(ctx context.Context, _ *agentpb.ReseedRandomDevRequest) (*agentpb.Empty, error) {
		return &agentpb.Empty{}, a.faults.at(ctx, "agent.ReseedRandomDev")
	})
	s.CreateSandbox(a.createSandbox)
	s.DestroySandbox(a.destroySandbox)
	s.CreateContainer(a.createContainer)
	s.StartContainer(a.startContainer)
	s.RemoveContainer(a.removeContainer)
	s.ExecProcess(a.execProcess)
	s.SignalProcess(a.signalProcess)
	s.WaitProcess(a.waitProcess)
	s.TtyWinResize(func(ctx context.Context, r *agentpb.TtyWinResizeRequest) (*agentpb.Empty, error) {
		_, err := a.process(r.ContainerId, r.ExecId)
		return &agentpb.Empty{}, errors.Join(err, a.faults.at(ctx, "agent.TtyWinResize"))
	})
	s.PauseContainer(func(ctx context.Context, r *agentpb.PauseContainerRequest) (*agentpb.Empty, error) {
		_, err := a.container(r.ContainerId)
		return &agentpb.Empty{}, errors.Join(err, a.faults.at(ctx, "agent.PauseContainer"))
	})
	s.ResumeContainer(func(ctx context.Context, r *agentpb.ResumeContainerRequest) (*agentpb.Empty, error) {
		_, err := a.container(r.ContainerId)
		return &agentpb.Empty{}, errors.Join(err, a.faults.at(ctx, "agent.ResumeContainer"))
	})
	s.StatsContainer(func(ctx context.Context, r *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
		_, err := a.container(r.ContainerId)
		return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{}}, errors.Join(err, a.faults.at(ctx, "agent.StatsContainer"))
	})
	s.UpdateContainer(func(ctx context.Context, r *agentpb.UpdateContainerRequest) (*agentpb.Empty, error) {
		_, err := a.container(r.ContainerId)
		return &agentpb.Empty{}, errors.Join(err, a.faults.at(ctx, "agent.UpdateContainer"))
	})
	s.GetOOMEvent(func(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
		select {
		case id := <-a.oom:
			return &agentpb.OOMEvent{ContainerId: id}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

func (a *Agent) createSandbox(ctx context.Context, r *agentpb.CreateSandboxRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.CreateSandbox"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sandbox = r
	return &agentpb.Empty{}, nil
}

func (a *Agent) destroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.DestroySandbox"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.destroyed = true
	for _, c := range a.containers {
		for _, p := range c.processes {
			p.kill()
		}
	}
	return &agentpb.Empty{}, nil
}

func (a *Agent) createContainer(ctx context.Context, r *agentpb.CreateContainerRequest) (_ *agentpb.Empty, err error) {
	if err := a.faults.at(ctx, "agent.CreateContainer.arrives"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &container{abandon: cancel, created: make(chan struct{}), processes: make(map[string]*program)}
	a.mu.Lock()
	if a.containers[r.ContainerId] != nil {
		a.mu.Unlock()
		return nil, ttrpc.Errorf(ttrpc.AlreadyExists, "container %s exists", r.ContainerId)
	}
	a.containers[r.ContainerId] = c
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if c.ready = err == nil; !c.ready {
			delete(a.containers, r.ContainerId)
		}
		close(c.created)
	}()
	if err := a.faults.at(ctx, "agent.CreateContainer"); err != nil {
		return nil, err
	}
	p, err := a.newProcess(ctx, r.OCI.GetProcess(), r.StdinPort, r.StdoutPort, r.StderrPort)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		p.kill()
		return nil, ctx.Err()
	}
	c.processes[""] = p
	return &agentpb.Empty{}, nil
}

// Forget loses a container, as an agent does that was told by somebody else.
func (a *Agent) Forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.containers[id]; c != nil {
		for _, p := range c.processes {
			p.kill()
		}
	}
	delete(a.containers, id)
}

// HangUp closes the connections for calls.
func (a *Agent) HangUp() {
	a.mu.Lock()
	server := a.server
	a.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}
