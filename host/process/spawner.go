// Package process starts, names and ends the helper processes of a pod (the
// VMM, virtiofsd), so that none outlives the shim and no stranger is hit.
//
//   - [Spawner] starts children that the kernel kills when this process dies.
//   - [Child] is one of them: its end is noticed at once, with what it last
//     wrote to stderr, and it is always reaped.
//   - [ID] names a process across reuse of its pid; it is what state on disk
//     keeps, and what clean-up after a crash kills.
//
// It is not a supervisor: nothing is restarted.
//
// Life cycle: one Spawner per process, made at start and kept. Children are
// started with [Spawner.Launch], end on their own or by [Child.Kill], and are
// reaped by this package. Nobody else may wait for them (no wait4(-1)).
package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrSpawnerClosed is returned by Start after Close.
var ErrSpawnerClosed = errors.New("spawner is closed")

// Spawner starts children from OS threads that live as long as the process.
// PR_SET_PDEATHSIG means the death of the thread that forked, and Go ends
// threads at will: a thread of our own makes it mean the process's. A second
// thread, started when first needed, has given up its privileges for the
// children that are confined.
type Spawner struct {
	requests chan spawnRequest
	confined chan spawnRequest
	quit     chan struct{}
	close    sync.Once
	threads  sync.WaitGroup
	confine  sync.Once
}

type spawnRequest struct {
	cmd    *exec.Cmd
	result chan error
}

// NewSpawner starts the thread, and marks every descriptor that this process
// holds close-on-exec: those it inherited must not reach its children.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan spawnRequest), confined: make(chan spawnRequest), quit: make(chan struct{})}
	closeOnExec()
	s.threads.Go(func() { s.loop(s.requests, func() error { return nil }) })
	return s
}

// Start starts cmd as (*exec.Cmd).Start does, in a process group of its own
// and with SIGKILL as its parent-death signal. The caller must call cmd.Wait;
// [Spawner.Launch] does all of that.
func (s *Spawner) Start(cmd *exec.Cmd) error { return s.start(cmd, s.requests) }

func (s *Spawner) start(cmd *exec.Cmd, requests chan<- spawnRequest) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	request := spawnRequest{cmd: cmd, result: make(chan error, 1)}
	select {
	case requests <- request:
		return <-request.result
	case <-s.quit:
		return fmt.Errorf("start %s: %w", cmd.Path, ErrSpawnerClosed)
	}
}

// Close ends the threads. Children that still run are killed with it as a rule,
// not for certain: end them first. A shim never needs it; tests do.
func (s *Spawner) Close() {
	s.close.Do(func() { close(s.quit) })
	s.threads.Wait()
}

// loop starts children from this thread, which prepare has made what it must be.
func (s *Spawner) loop(requests <-chan spawnRequest, prepare func() error) {
	// Never unlocked: the thread must not run, nor die with, anything else.
	runtime.LockOSThread()
	prepared := prepare()
	for {
		select {
		case request := <-requests:
			if prepared != nil {
				request.result <- prepared
				continue
			}
			request.result <- request.cmd.Start()
		case <-s.quit:
			return
		}
	}
}

// closeOnExec marks all descriptors from 3 up. Go opens its own that way.
func closeOnExec() {
	const first = 3
	if unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // before Linux 5.11
	if err != nil {
		return
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
