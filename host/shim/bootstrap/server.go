package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds the time until the server says that it is ready,
	// which takes it some milliseconds.
	readyTimeout = 10 * time.Second
	maxReady     = 4 << 10
	maxOOMScore  = 1000
	// maxProcs bounds the server's threads that run Go code: it mostly waits,
	// and each costs memory.
	maxProcs = 4
)

// server is the process that Start leaves behind.
type server struct{ cmd *exec.Cmd }

// fork starts this program again as the server: in its own session, with the
// bundle as its working directory, in a mount namespace of its own (so that no
// mount of a pod is ever seen on the host, and none outlives the server), and
// waits until it says that it is ready. It does not inherit our output, whose
// end containerd awaits.
func fork(ctx context.Context, inv Invocation, bundle string, socket *os.File) (_ *server, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(self, inv.serverArgs()...)
	cmd.Dir = bundle
	cmd.Env = serverEnv(inv)
	cmd.ExtraFiles = []*os.File{SocketFD - 3: socket, ReadyFD - 3: w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	s := &server{cmd}
	if err := s.awaitReady(ctx, r); err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

func (inv *Invocation) serverArgs() []string {
	args := []string{"-namespace", inv.Namespace, "-id", inv.ID, "-address", inv.Address}
	if inv.PublishBinary != "" {
		args = append(args, "-publish-binary", inv.PublishBinary)
	}
	if inv.Config != "" {
		args = append(args, "-config", inv.Config)
	}
	if inv.Debug {
		args = append(args, "-debug")
	}
	return args
}

func serverEnv(inv Invocation) []string {
	return append(os.Environ(), // the last of a name counts
		"TTRPC_ADDRESS="+inv.TTRPCAddress,
		"GOMAXPROCS="+strconv.Itoa(max(2, min(maxProcs, runtime.NumCPU()))))
}

// awaitReady reads the server's word from the pipe r.
func (s *server) awaitReady(ctx context.Context, r *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	word, err := io.ReadAll(io.LimitReader(r, maxReady))
	switch {
	case string(word) == Ready:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it is not ready: %w", context.Cause(ctx))
	case len(word) > 0:
		return errors.New(string(word))
	case err != nil:
		return err
	}
	_ = s.cmd.Wait()
	return fmt.Errorf("it ended at once: %s", s.cmd.ProcessState)
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()
}

// adjustOOMScore makes the kernel prefer the shim to containerd, our parent,
// as a victim, as containerd's own shims do. It is not fatal: a containerd that
// may not lower its score leaves it at 0, and so may we not.
func (s *server) adjustOOMScore() {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.pid()), strconv.AppendInt(nil, int64(min(score+1, maxOOMScore)), 10), 0)
}
