package taskpid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
)

// Options say what the process stands for.
type Options struct {
	// ID is the container's.
	ID string
	// Root is the container's root file system on the host, in this process's
	// mount namespace; empty when the host cannot see it.
	Root string
	// Readonly makes Root read-only.
	Readonly bool
	// NetNS is the path of the network namespace to be in; empty for a new one.
	NetNS string
	// Cgroup is where the process goes; nil for this process's.
	Cgroup *Cgroup
	// OOMScoreAdj is the container's, from -1000 to 1000 (proc(5)). It is not
	// lowered below what this process may set.
	OOMScoreAdj int
}

// Process is a process that stands for a container or for an exec. Its methods
// may be called concurrently.
type Process struct {
	child   *process.Child
	spawner *process.Spawner
	opts    Options
}

// Start starts a container's process and returns when it is in place and has
// given up its privileges. ctx bounds the start.
func Start(ctx context.Context, spawner *process.Spawner, o Options) (*Process, error) {
	p, err := start(ctx, spawner, o)
	if err != nil {
		return nil, fmt.Errorf("start the host's process of container %s: %w", o.ID, err)
	}
	return p, nil
}

func start(ctx context.Context, spawner *process.Spawner, o Options) (*Process, error) {
	root, err := openRoot(o.Root, o.Readonly)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := launch{place: ownRoot, at: root, args: []string{name(o.ID)}, flags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if o.NetNS != "" {
		l.flags = syscall.CLONE_NEWNS
		if l.netns, err = os.Open(o.NetNS); err != nil {
			return nil, fmt.Errorf("network namespace: %w", err)
		}
		defer l.netns.Close()
	}
	return l.run(ctx, spawner, o)
}

// Exec starts a process for an exec in the container: in the same place as the
// container's.
func (p *Process) Exec(ctx context.Context, execID string) (*Process, error) {
	e, err := p.exec(ctx, execID)
	if err != nil {
		return nil, fmt.Errorf("start the host's process of exec %s in container %s: %w", execID, p.opts.ID, err)
	}
	return e, nil
}

func (p *Process) exec(ctx context.Context, execID string) (*Process, error) {
	ended := errors.New("the container has ended")
	fd, err := unix.PidfdOpen(p.ID().PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ended
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	peer := os.NewFile(uintptr(fd), "pidfd")
	defer peer.Close()
	select {
	case <-p.Done(): // the pid may be another's
		return nil, ended
	default:
	}
	l := launch{place: joinPeer, at: peer, args: []string{name(p.opts.ID), "exec", execID}}
	return l.run(ctx, p.spawner, p.opts)
}

func name(id string) string { return "kata:" + id }

// ID returns the identity of the process.
func (p *Process) ID() process.ID { return p.child.ID() }

// Done is closed when the process has ended and is reaped.
func (p *Process) Done() <-chan struct{} { return p.child.Done() }

// Kill ends the process and returns when it is reaped, or with ctx's error. One
// that has ended is no error.
func (p *Process) Kill(ctx context.Context) error { return p.child.Kill(ctx) }

// launch is how a process is started.
type launch struct {
	place place
	at    *os.File // see place
	netns *os.File // nil for none to join
	args  []string
	flags uintptr // of clone(2)
}

func (l launch) run(ctx context.Context, spawner *process.Spawner, o Options) (*Process, error) {
	program, err := memoryFile(image(l.place, l.netns != nil))
	if err != nil {
		return nil, err
	}
	defer program.Close()
	status, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer status.Close()
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", programFD), Args: l.args, Env: []string{}, Dir: "/",
		ExtraFiles:  []*os.File{statusFD - 3: theirs, programFD - 3: program, placeFD - 3: l.at},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: l.flags},
	}
	if l.netns != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, l.netns) // netnsFD
	}
	child, err := spawner.Launch(cmd)
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	p := &Process{child: child, spawner: spawner, opts: o}
	if err := p.awaitReady(ctx, status); err != nil {
		return nil, errors.Join(err, p.abort())
	}
	o.Cgroup.add(p.ID().PID)
	p.setOOMScore(o.OOMScoreAdj)
	return p, nil
}

// awaitReady reads what the program says before it closes the pipe: nothing, when
// all went well.
func (p *Process) awaitReady(ctx context.Context, status *os.File) error {
	defer context.AfterFunc(ctx, func() { _ = status.SetReadDeadline(time.Unix(1, 0)) })()
	said, err := io.ReadAll(io.LimitReader(status, 64))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	if err := failure(said); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return fmt.Errorf("it ended at once: %w", p.child.Err())
	default:
		return nil
	}
}

// abortTimeout bounds the wait for a process to end that SIGKILL was sent to.
const abortTimeout = 5 * time.Second

func (p *Process) abort() error {
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	return p.Kill(ctx)
}

// setOOMScore makes the process no better protected than the container is:
// it has inherited the score of the shim, which is near containerd's. A score
// that may not be lowered (capabilities(7), CAP_SYS_RESOURCE) stays.
func (p *Process) setOOMScore(score int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.ID().PID), strconv.AppendInt(nil, int64(score), 10), 0)
}
