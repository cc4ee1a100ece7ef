package container

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/container/cgroup"
	"kata/guest/container/nsexec"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/lib/fmt"
)

// stageStart is how to start a stage.
type stageStart struct {
	args  []string
	stdio Stdio
	// pidns is a descriptor of a pid namespace, or a pidfd of a process in it,
	// to start the stage in; -1 for none.
	pidns int
	// init is a pidfd that the stage inherits; 0 for none.
	init   int
	flags  uintptr       // CLONE_NEW*
	cgroup *cgroup.Group // nil: the agent's own
	// nsexec starts it in a user or time namespace, with the flags that are
	// there; pidns 0 is none then.
	nsexec *nsexec.Program
}

// startStage starts a stage, which waits for its configuration.
func (r *Runtime) startStage(s stageStart) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	conn := newStageConn(pair[0])
	process, err := r.forkStage(s, pair[1])
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return &Process{process: process, stage: conn}, nil
}

func (r *Runtime) forkStage(s stageStart, socket int) (p *reaper.Process, err error) {
	files := make([]uintptr, 0, plan.InitFD+1)
	for _, f := range []*os.File{s.stdio.Stdin, s.stdio.Stdout, s.stdio.Stderr} {
		f, opened, err := nullIfNil(f)
		if err != nil {
			return nil, err
		}
		if opened {
			defer f.Close()
		}
		fd := f.Fd() // also makes it blocking, as a program expects
		files = append(files, fd)
		defer runtime.KeepAlive(f)
	}
	files = append(files, uintptr(socket))
	sys := &syscall.SysProcAttr{Setsid: true, Cloneflags: s.flags}
	if s.init != 0 {
		files = append(files, uintptr(s.init))
	}
	// One thread for Go code is enough, and if the runtime should die it must
	// not write a trace into the container's standard error.
	env := []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}
	start := func(cgroup int) (p *reaper.Process, err error) {
		if s.nsexec != nil {
			return r.startNsexec(s, files, env, cgroup)
		}
		if cgroup >= 0 {
			sys.UseCgroupFD, sys.CgroupFD = true, cgroup
		}
		return r.forkExec(s, &syscall.ProcAttr{Env: env, Files: files, Sys: sys})
	}
	if s.cgroup == nil {
		return start(-1)
	}
	err = s.cgroup.Use(func(dir int) (err error) {
		p, err = start(dir)
		return err
	})
	return p, err
}

func (r *Runtime) forkExec(s stageStart, attr *syscall.ProcAttr) (*reaper.Process, error) {
	fork := func() (int, error) {
		return syscall.ForkExec(r.config.Exe, s.args, attr)
	}
	if s.pidns >= 0 {
		return r.config.Reaper.Start(func() (int, error) { return inPIDNamespace(s.pidns, fork) })
	}
	return r.config.Reaper.Start(fork)
}

// startNsexec starts a stage in namespaces that syscall.ForkExec has no way into, and in
// the cgroup of a descriptor unless that is -1.
func (r *Runtime) startNsexec(s stageStart, files []uintptr, env []string, cgroup int) (*reaper.Process, error) {
	exe, err := unix.Open(r.config.Exe, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: r.config.Exe, Err: err}
	}
	defer unix.Close(exe)
	p := *s.nsexec
	p.Exe, p.Args, p.Env, p.Files, p.Cgroup = exe, s.args, env, files, cgroup
	if s.pidns > 0 {
		p.Enter = append(p.Enter[:len(p.Enter):len(p.Enter)], nsexec.Namespaces{FD: s.pidns, Flags: unix.CLONE_NEWPID})
	}
	return r.config.Reaper.Start(func() (int, error) { return nsexec.Start(&p) })
}

// sendTrees sends the descriptors of trees, in the order of places.
func (c *stageConn) sendTrees(ctx context.Context, trees rootfs.Trees, places []int) (err error) {
	release := c.until(ctx)
	defer func() { err = errors.Join(release(), err) }()
	for len(places) > 0 {
		var fds []int
		for _, place := range places[:min(len(places), plan.MaxDescriptors)] {
			fds = append(fds, trees[place].FD())
		}
		places = places[len(fds):]
		if err := c.sendRights(unix.UnixRights(fds...)); err != nil {
			return err
		}
	}
	return nil
}

// sendRights sends descriptors with one byte.
func (c *stageConn) sendRights(rights []byte) (err error) {
	waited := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte{0}, rights, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN
	})
	if waited != nil {
		return waited
	}
	return err
}

// inPIDNamespace runs fork on a thread whose children are born in the pid
// namespace ns meanwhile. A thread that cannot be turned back ends with its
// goroutine.
func inPIDNamespace(ns int, fork func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		own, err2 := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err2 != nil {
			err = fmt.Errorf("open the own pid namespace: %w", err2)
			return
		}
		defer unix.Close(own)
		runtime.LockOSThread()
		if err = unix.Setns(ns, unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("join the pid namespace: %w", err)
			return
		}
		pid, err = fork()
		if errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("the pid namespace has no init any more: %w", err) // pid_namespaces(7)
		}
		// Threads are not free: each leaves its stacks behind.
		if unix.Setns(own, unix.CLONE_NEWPID) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return pid, err
}

// stageConn is the runtime's end of the conversation with a stage.
type stageConn struct {
	file *os.File
	raw  syscall.RawConn
}

func newStageConn(fd int) *stageConn {
	file := os.NewFile(uintptr(fd), "stage")
	raw, err := file.SyscallConn()
	if err != nil {
		panic(err) // an open file has one
	}
	return &stageConn{file: file, raw: raw}
}

func (c *stageConn) close() { _ = c.file.Close() }

// until makes what is done with the connection end with ctx. The function it
// returns takes that back and says why it ended, if it was ctx.
func (c *stageConn) until(ctx context.Context) (release func() error) {
	stop := context.AfterFunc(ctx, func() { _ = c.file.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if stop() {
			return nil
		}
		return ctx.Err()
	}
}

// configure sends the stage what to do.
func (c *stageConn) configure(ctx context.Context, config []byte) (err error) {
	release := c.until(ctx)
	defer func() { err = errors.Join(release(), err) }()
	_, err = c.file.Write(config)
	return err
}

// message is one message of a stage.
type message struct {
	kind byte
	text string
	file *os.File
}

// receive returns the next message. At the end, which is when the stage has
// executed its command or died, the kind is 0.
func (c *stageConn) receive() (message, error) {
	header := make([]byte, 5)
	n, file, err := c.read(header)
	if err != nil || n == 0 {
		return message{}, err
	}
	kind, length, ok := plan.ParseHeader(header[:n])
	if !ok {
		if file != nil {
			file.Close()
		}
		return message{}, errors.New("the stage sent nonsense")
	}
	text := make([]byte, length)
	n, _, err = c.read(text)
	return message{kind: kind, text: string(text[:n]), file: file}, err
}

// read fills b unless the stream ends first, and returns a descriptor that came
// with it.
func (c *stageConn) read(b []byte) (n int, file *os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	for n < len(b) {
		var m, oobn int
		var recvErr error
		err = c.raw.Read(func(fd uintptr) bool {
			m, oobn, _, _, recvErr = unix.Recvmsg(int(fd), b[n:], oob, unix.MSG_CMSG_CLOEXEC)
			return recvErr != unix.EAGAIN
		})
		if err == nil {
			err = recvErr
		}
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECONNRESET { // it died with unread data
			return n, file, nil
		}
		if err != nil {
			return n, file, err
		}
		if oobn > 0 && file == nil {
			file = receivedFile(oob[:oobn])
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, file, nil
}

// receivedFile is the descriptor in a control message, made non-blocking so
// that reading it can be ended by Close.
func receivedFile(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "terminal")
}
