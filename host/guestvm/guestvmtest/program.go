package guestvmtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
)

// program is a goroutine that does what its arguments say once it is started.
type program struct {
	args                  []string
	stdin, stdout, stderr net.Conn // nil where there is none

	starting, killing sync.Once
	started, killed   chan struct{}
	done              chan struct{} // closed when what follows is set
	status            int32
	wrote             uint64
}

// newProcess takes the streams of a process and lets it wait for its start.
func (a *Agent) newProcess(ctx context.Context, spec *ocipb.Process, in, out, errs uint32) (*program, error) {
	p := &program{args: spec.GetArgs(), started: make(chan struct{}), killed: make(chan struct{}), done: make(chan struct{})}
	for _, s := range []struct {
		conn *net.Conn
		port uint32
	}{{&p.stdin, in}, {&p.stdout, out}, {&p.stderr, errs}} {
		var err error
		if *s.conn, err = a.take(ctx, s.port); err != nil {
			p.close()
			return nil, fmt.Errorf("take the stream of port %d: %w", s.port, err)
		}
	}
	a.processes.Go(p.run)
	return p, nil
}

func (p *program) start() { p.starting.Do(func() { close(p.started) }) }
func (p *program) kill()  { p.killing.Do(func() { close(p.killed) }) }

func (p *program) run() {
	defer close(p.done)
	defer p.close()
	select {
	case <-p.started:
	case <-p.killed:
		p.status = statusKilled
		return
	}
	switch {
	case len(p.args) == 2 && p.args[0] == "exit":
		status, _ := strconv.Atoi(p.args[1])
		p.status = int32(status)
		return
	case len(p.args) == 1 && p.args[0] == "cat" && p.stdin != nil && p.stdout != nil:
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			n, _ := io.Copy(p.stdout, p.stdin)
			p.wrote = uint64(n)
		}()
		select {
		case <-copied:
			return
		case <-p.killed:
			p.close()
			<-copied
		}
	default:
		<-p.killed
	}
	p.status = statusKilled
}

func (p *program) close() {
	for _, c := range []net.Conn{p.stdin, p.stdout, p.stderr} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// container returns a container that is there.
func (a *Agent) container(id string) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[id]
	if c == nil {
		return nil, ttrpc.Errorf(ttrpc.NotFound, "container %q does not exist", id)
	}
	if !c.ready {
		return nil, ttrpc.Errorf(ttrpc.FailedPrecondition, "container %q is being created", id)
	}
	return c, nil
}

func (a *Agent) process(id, exec string) (*program, error) {
	c, err := a.container(id)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if exec == id {
		exec = ""
	}
	p := c.processes[exec]
	if p == nil {
		return nil, ttrpc.Errorf(ttrpc.NotFound, "process %q of container %q does not exist", exec, id)
	}
	return p, nil
}

func (a *Agent) startContainer(ctx context.Context, r *agentpb.StartContainerRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.StartContainer"); err != nil {
		return nil, err
	}
	p, err := a.process(r.ContainerId, "")
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[r.ContainerId]
	if c == nil || c.started {
		return nil, ttrpc.Errorf(ttrpc.FailedPrecondition, "container %q has been started before", r.ContainerId)
	}
	c.started = true
	p.start()
	return &agentpb.Empty{}, nil
}

func (a *Agent) removeContainer(ctx context.Context, r *agentpb.RemoveContainerRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.RemoveContainer"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	c := a.containers[r.ContainerId]
	a.mu.Unlock()
	if c == nil {
		return nil, ttrpc.Errorf(ttrpc.NotFound, "container %q does not exist", r.ContainerId)
	}
	c.abandon()
	select {
	case <-c.created:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.containers[r.ContainerId] != c {
		return nil, ttrpc.Errorf(ttrpc.NotFound, "container %q was not created", r.ContainerId)
	}
	for _, p := range c.processes {
		p.kill()
	}
	delete(a.containers, r.ContainerId)
	return &agentpb.Empty{}, nil
}

func (a *Agent) execProcess(ctx context.Context, r *agentpb.ExecProcessRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.ExecProcess"); err != nil {
		return nil, err
	}
	c, err := a.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	p, err := a.newProcess(ctx, r.Process, r.StdinPort, r.StdoutPort, r.StderrPort)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.processes[r.ExecId] != nil {
		p.kill()
		return nil, ttrpc.Errorf(ttrpc.AlreadyExists, "exec %q exists", r.ExecId)
	}
	c.processes[r.ExecId] = p
	p.start()
	return &agentpb.Empty{}, nil
}

func (a *Agent) signalProcess(ctx context.Context, r *agentpb.SignalProcessRequest) (*agentpb.Empty, error) {
	if err := a.faults.at(ctx, "agent.SignalProcess"); err != nil {
		return nil, err
	}
	p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	const sigkill, sigterm = 9, 15
	if r.Signal != sigkill && r.Signal != sigterm {
		return &agentpb.Empty{}, nil
	}
	if !r.All {
		p.kill()
		return &agentpb.Empty{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.containers[r.ContainerId]; c != nil {
		for _, p := range c.processes {
			p.kill()
		}
	}
	return &agentpb.Empty{}, nil
}

func (a *Agent) waitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	if err := a.faults.at(ctx, "agent.WaitProcess"); err != nil {
		return nil, err
	}
	p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return &agentpb.WaitProcessResponse{Status: p.status, ExitedAt: time.Now().UnixNano(), StdoutBytes: p.wrote}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
