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

	"golang.org/x/sys/unix"
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
type server struct {
	cmd  *exec.Cmd
	conn *os.File // the conversation; see Ready
}

// fork starts this program again as the server: in its own session, with the
// bundle as its working directory, in a mount namespace of its own (so that no
// mount of a pod is ever seen on the host, and none outlives the server), and
// waits until it says that it is ready. It does not inherit our output, whose
// end containerd awaits.
func fork(ctx context.Context, inv Invocation, bundle string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, inv.serverArgs()...)
	cmd.Dir = bundle
	cmd.Env = serverEnv(inv)
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	defer mounts.Close()
	cmd.ExtraFiles = []*os.File{StartFD - 3: theirs, HostMountsFD - 3: mounts}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	s := &server{cmd, ours}
	if err := s.awaitReady(ctx); err != nil {
		s.kill()
		return nil, errors.Join(err, ours.Close())
	}
	return s, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "server"), os.NewFile(uintptr(fds[1]), "start"), nil
}

func (inv *Invocation) serverArgs() []string {
	args := []string{"-namespace", inv.Namespace, "-id", inv.ID, "-address", inv.Address, "-socket", inv.Socket}
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

// awaitReady reads the server's word.
func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxReady)
	n, err := s.conn.Read(buf)
	word := buf[:n]
	switch {
	case string(word) == Ready:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it is not ready: %w", context.Cause(ctx))
	case len(word) > 0:
		return errors.New(string(word))
	case err != nil && !errors.Is(err, io.EOF):
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
