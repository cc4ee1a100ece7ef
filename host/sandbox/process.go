package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/host/stdio"
	"kata/host/taskpid"
	"kata/host/vsock"
)

// statusKilled is what a process is reported with when its VM went away:
// 128 + SIGKILL, as a shell would say.
const statusKilled = 137

// maxStatus is the largest exit status.
const maxStatus = 255

// Exit is how a process ended.
type Exit struct {
	// Status is the exit code, or 128 plus the number of the fatal signal.
	Status uint32
	At     time.Time
}

// Process is a container's first process or an exec.
type Process struct {
	container *Container
	execID    string // empty for the first process
	spec      *ocipb.Process
	stdio     stdio.Config

	streams streams
	set     *stdio.Set
	host    *taskpid.Process // what stands for it on the host, once started

	exited  chan struct{} // closed once the exit is known; done follows when host has ended
	done    chan struct{} // closed once exit is set
	drained chan struct{} // closed once output is copied and the host ends are closed
	exit    Exit

	releaseOnce sync.Once
	startAsked  atomic.Pointer[time.Time]
	killOnce    sync.Once // SIGKILL was sent to a first process
}

// streams are the connections that carry a process's stdio to the agent.
type streams struct{ stdin, stdout, stderr net.Conn }

// streamPorts are the host's ports of the streams, by which the agent tells
// whose they are; 0 where there is none.
type streamPorts struct{ stdin, stdout, stderr uint32 }

func newProcess(c *Container, execID string, io stdio.Config) *Process {
	return &Process{
		container: c, execID: execID, stdio: io,
		exited: make(chan struct{}), done: make(chan struct{}), drained: make(chan struct{}),
	}
}

// connect opens containerd's ends and a stream to the agent for each. There is
// a stream even where containerd gave nothing: input then ends at once and
// output is dropped, instead of blocking the process.
func (p *Process) connect(ctx context.Context) (err error) {
	set, err := stdio.Open(ctx, p.stdio)
	if err != nil {
		return fmt.Errorf("open stdio of %s: %w", p, err)
	}
	p.set = set
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	group, dialing := errgroup.WithContext(ctx)
	dial := func(conn *net.Conn) {
		group.Go(func() (err error) {
			*conn, err = p.container.sandbox.guest.Dial(dialing, api.PortStreams)
			return err
		})
	}
	dial(&p.streams.stdin)
	dial(&p.streams.stdout)
	if !p.stdio.Terminal {
		dial(&p.streams.stderr)
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("connect stdio of %s to the agent: %w", p, err)
	}
	return nil
}

func (p *Process) ports() streamPorts {
	return streamPorts{hostPort(p.streams.stdin), hostPort(p.streams.stdout), hostPort(p.streams.stderr)}
}

func hostPort(conn net.Conn) uint32 {
	if conn == nil {
		return 0
	}
	return conn.LocalAddr().(*vsock.Addr).Port
}

// Start runs the process: the container's first one, which waits in the guest
// since CreateContainer, or the exec.
func (p *Process) Start(ctx context.Context) error {
	asked := time.Now()
	p.startAsked.Store(&asked)
	if p.execID == "" {
		if err := p.set.Started(); err != nil {
			return fmt.Errorf("start container %s: %w", p.container.id, err)
		}
		_, err := p.service().StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: p.container.id})
		if err != nil {
			return fmt.Errorf("start container %s: %w", p.container.id, p.cause(err))
		}
		return p.container.startedHooks(ctx)
	}
	if err := p.connect(ctx); err != nil {
		return err
	}
	if err := p.startHostProcess(ctx); err != nil {
		p.release()
		return err
	}
	ports := p.ports()
	_, err := p.service().ExecProcess(ctx, &agentpb.ExecProcessRequest{
		ContainerId: p.container.id, ExecId: p.execID, Process: p.spec,
		StdinPort: ports.stdin, StdoutPort: ports.stdout, StderrPort: ports.stderr,
	})
	if err != nil {
		p.endHost()
		p.release()
		return fmt.Errorf("exec %s in container %s: %w", p.execID, p.container.id, p.cause(err))
	}
	p.watch()
	if err := p.set.Started(); err != nil {
		p.container.sandbox.log.Warn("an exec's input ends with its first writer", "container", p.container.id, "exec", p.execID, "error", err)
	}
	return nil
}

// watch copies stdio and awaits the exit, in the background. The exit is known
// from the agent's answer alone; output that was written before it is copied
// afterwards and delays nothing.
func (p *Process) watch() {
	p.set.Copy(stdio.Streams{Stdin: p.streams.stdin, Stdout: p.streams.stdout, Stderr: p.streams.stderr})
	go p.watchHost()
	go func() {
		resp, err := p.awaitExit()
		var stdout, stderr uint64
		if err != nil {
			p.exit = Exit{Status: statusKilled, At: time.Now()}
			p.container.sandbox.log.Debug("process lost", "container", p.container.id, "exec", p.execID, "error", err)
		} else {
			p.exit = Exit{Status: exitStatus(resp.Status), At: p.exitTime(resp.ExitedAt)}
			stdout, stderr = resp.StdoutBytes, resp.StderrBytes
			p.container.sandbox.awaitOOM(p.container.id, resp.OomEvents)
		}
		close(p.exited)
		p.endHost()
		close(p.done)
		p.set.Drain(stdout, stderr)
		p.release()
	}()
}

const (
	// waitPause is the time after the first refusal to wait for a process; it
	// doubles up to longestWaitPause.
	waitPause        = 50 * time.Millisecond
	longestWaitPause = 5 * time.Second
	// removedPatience is how long the answer to a wait may come after that to the
	// removal of the container.
	removedPatience = 2 * time.Second
)

// awaitExit asks the agent for the exit until it tells one. A refusal, for want of
// room or for whatever reason, says nothing about the process, so it is asked again.
// The error says that nobody can tell any more: the connection is lost, or the
// process was taken out of the guest.
func (p *Process) awaitExit() (*agentpb.WaitProcessResponse, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-over:
			return
		case <-p.removed():
		}
		timer := time.NewTimer(removedPatience)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
			cancel(errors.New("it was removed from the guest"))
		}
	}()
	for pause := waitPause; ; pause = min(2*pause, longestWaitPause) {
		resp, err := p.service().WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: p.container.id, ExecId: p.execID})
		if err == nil || !answered(err) {
			return resp, err
		}
		p.container.sandbox.log.Debug("wait for a process again", "container", p.container.id, "exec", p.execID, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.removed(): // it knows the process no more
			timer.Stop()
			return nil, err
		case <-p.container.sandbox.agent.lost():
			timer.Stop()
			return nil, err
		}
	}
}

// removed is closed when the container was taken out of the guest.
func (p *Process) removed() <-chan struct{} { return p.container.removed }

// exitStatus is what a shell would say: a byte. Anything else is not true.
func exitStatus(told int32) uint32 {
	if told < 0 || told > maxStatus {
		return maxStatus
	}
	return uint32(told)
}

// exitTime converts the agent's time. The guest's clock was set from ours at boot
// and may be off by a little, or lie: what it says is never in our future, nor
// before the process was asked to start.
func (p *Process) exitTime(unixNano int64) time.Time {
	now := time.Now()
	t := time.Unix(0, unixNano)
	if unixNano <= 0 || t.After(now) {
		return now
	}
	if start := p.startAsked.Load(); start != nil && t.Before(*start) {
		return *start
	}
	return t
}

// release closes both ends of the stdio.
func (p *Process) release() {
	p.releaseOnce.Do(func() {
		for _, conn := range []net.Conn{p.streams.stdin, p.streams.stdout, p.streams.stderr} {
			if conn != nil {
				_ = conn.Close()
			}
		}
		if p.set != nil {
			_ = p.set.Close()
		}
		close(p.drained)
	})
}

// Done is closed as soon as the exit is known and the process on the host that
// stands for this one has ended; it does not wait for output.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit returns how the process ended; valid after Done.
func (p *Process) Exit() Exit { return p.exit }

// Drained is closed when all output that the process wrote is copied and
// containerd's ends are closed.
func (p *Process) Drained() <-chan struct{} { return p.drained }

// Copied returns how many bytes of output have been copied to containerd's ends.
func (p *Process) Copied() uint64 {
	if p.set == nil {
		return 0
	}
	return p.set.Copied()
}

// Signal sends the signal to this process alone. SIGKILL to a container's first
// process has to end it in time: see Agent.KillTimeout.
func (p *Process) Signal(ctx context.Context, sig uint32) error {
	if sig == sigkill && p.execID == "" {
		p.mustEnd()
	}
	_, err := p.service().SignalProcess(ctx,
		&agentpb.SignalProcessRequest{ContainerId: p.container.id, ExecId: p.execID, Signal: sig})
	return agentError(err)
}

// Resize sets the size of the process's terminal, in characters.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	_, err := p.service().TtyWinResize(ctx,
		&agentpb.TtyWinResizeRequest{ContainerId: p.container.id, ExecId: p.execID, Row: height, Column: width})
	return agentError(err)
}

// CloseStdin lets the process read to the end of what has been written to its
// standard input, and then end of file.
func (p *Process) CloseStdin(context.Context) error {
	if p.set == nil {
		return nil
	}
	return p.set.CloseStdin()
}

// Delete forgets an exec that has ended or never ran; of a container's first
// process there is nothing to delete apart from the container.
func (p *Process) Delete(context.Context) error {
	if p.execID == "" {
		return nil
	}
	p.container.mu.Lock()
	delete(p.container.execs, p.execID)
	p.container.mu.Unlock()
	p.release()
	return nil
}

// String names the process in errors.
func (p *Process) String() string {
	if p.execID == "" {
		return "container " + p.container.id
	}
	return "exec " + p.execID + " in container " + p.container.id
}

func (p *Process) service() *agentpb.AgentServiceClient { return p.container.sandbox.agent.service }

// cause prefers the reason why the sandbox died over the broken call that
// followed from it.
func (p *Process) cause(err error) error {
	if reason := p.container.sandbox.Err(); reason != nil {
		return reason
	}
	return agentError(err)
}

// agentError strips the RPC's dressing from an error of the agent, whose text
// is a whole sentence, and keeps its code for those who ask.
func agentError(err error) error {
	var status *ttrpc.Error
	if errors.As(err, &status) {
		return status
	}
	return err
}
