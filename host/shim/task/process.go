package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kata/host/stdio"
)

// process is a container's first process, whose state is the container's, or an
// exec.
type process struct {
	containerID string
	execID      string // empty for the first process
	life        lifecycle
	stdio       stdio.Config
	guest       Process

	// ops is held by the operation that changes the process; there is one at
	// a time.
	ops lock
	// starting is held while a start is under way, so that the exit of a
	// process that is quicker than the answer is told after its start.
	starting sync.Mutex
	// gone is closed once the process has ended and its exit is published.
	gone chan struct{}

	mu          sync.Mutex
	state       state
	pid         uint32 // on the host; 0 before there is one
	exit        Exit
	size        *size // of an exec's terminal, set before its start
	stdinClosed bool  // of an exec, before its start

	// Of a container's first process: that its start is published, and the OOM
	// kills that are not.
	startTold bool
	oomKills  int
}

type size struct{ width, height uint32 }

func newProcess(containerID, execID string, io stdio.Config) *process {
	p := &process{
		containerID: containerID, execID: execID, life: containerLife(), stdio: io,
		ops: newLock(), gone: make(chan struct{}), state: created,
	}
	if execID != "" {
		p.life = execLife()
	}
	return p
}

// String names the process in errors.
func (p *process) String() string {
	if p.execID == "" {
		return "container " + p.containerID
	}
	return fmt.Sprintf("exec %s in container %s", p.execID, p.containerID)
}

// check tells whether a is possible now.
func (p *process) check(a action) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.life.next(p.String(), p.state, a)
	return err
}

// do moves the process to the state that follows a, if a is possible now.
func (p *process) do(a action) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, err := p.life.next(p.String(), p.state, a)
	if err != nil {
		return err
	}
	p.state = to
	return nil
}

// end records the exit, once; the caller publishes it and then closes gone.
func (p *process) end(e Exit) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, err := p.life.next(p.String(), p.state, exit)
	if err != nil {
		return false
	}
	p.state, p.exit = to, e
	return true
}

// hostPID is what is reported as the process's pid.
func (p *process) hostPID() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// nowHasPID notes the pid of the process in the guest that there now is.
func (p *process) nowHasPID() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = uint32(p.guest.PID())
}

func (p *process) snapshot() (state, Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.exit
}

// ended tells whether the process has run and ended, even if that is not yet
// published.
func (p *process) ended() bool {
	select {
	case <-p.guest.Done():
		return true
	default:
		return false
	}
}

// awaitGone waits until the exit is published.
func (p *process) awaitGone(ctx context.Context) error {
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// flush waits until what the process wrote before its exit is copied, or its
// reader does not read: one that does not must not hide the exit. Clients of
// containerd 1.6 stop reading when they are told of the exit, and more is under way
// between guest and host than in a pipe: told at once, the last of 256 MiB are lost
// every few runs. What another process writes that holds the stream is not waited
// for, and an agent that holds the rest back is not waited for either (package
// stdio, Drain).
func (p *process) flush() {
	_ = p.awaitDrained(context.Background(), flushTimeout)
}

// awaitDrained waits until the output is copied. A reader that takes nothing at all
// has patience, one that has taken something slowReader from then on.
func (p *process) awaitDrained(ctx context.Context, patience time.Duration) error {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	copied, since := p.guest.Copied(), time.Now()
	for {
		select {
		case <-p.guest.Drained():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		if now := p.guest.Copied(); now != copied {
			copied, since, patience = now, time.Now(), slowReader
		} else if time.Since(since) >= patience {
			return fmt.Errorf("nobody has read for %s", patience)
		}
	}
}
