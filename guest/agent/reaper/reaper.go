// Package reaper collects the exit status of every child of a process that is
// init, or a subreaper, for the processes below it.
//
// Children that the program starts itself are started through
// [Reaper.Start], which hands back a [Process] whose exit is recorded exactly
// once, with the time at which it was collected. Every other child, an orphan
// that the kernel handed to this process, is collected and forgotten. No exit
// is lost, however early it comes: a child may be dead before Start has
// returned.
//
// The package is not a way to run programs: it neither forks nor kills. While a
// Reaper runs nothing else in the program may wait for children (no os/exec).
//
// Life cycle: New, Run in a goroutine of its own for as long as the program
// lives, any number of concurrent Starts.
package reaper

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Exit is how a process ended.
type Exit struct {
	// Status is the exit code, 0 to 255, or 128 plus the number of the
	// signal that killed the process.
	Status int
	// Time is when the exit was collected.
	Time time.Time
}

// ErrEnded says that a process has been collected.
var ErrEnded = errors.New("the process has ended")

// Process is a child that was started through [Reaper.Start].
type Process struct {
	r     *Reaper
	pid   int
	done  chan struct{}
	exit  Exit     // written before done is closed, never after
	stops chan int // nil unless it is traced; under r.mu
}

// PID is the process ID in the namespace of the reaper. After Done is closed
// the kernel may give the number to another process.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and its exit is known.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit returns how the process ended. It is the zero Exit until Done is
// closed.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
		return p.exit
	default:
		return Exit{}
	}
}

// Signal sends a signal to the process and to no other: its number cannot have
// been given away, because nothing is collected meanwhile. After Done is closed
// the error is ErrEnded.
func (p *Process) Signal(sig unix.Signal) error {
	return p.whileAlive(func() error { return unix.Kill(p.pid, sig) })
}

// SignalGroup sends a signal to the process group that the process leads, as
// Signal does to the process.
func (p *Process) SignalGroup(sig unix.Signal) error {
	return p.whileAlive(func() error { return unix.Kill(-p.pid, sig) })
}

// PIDFD opens a pidfd of the process (pidfd_open(2)), which the caller closes.
// After Done is closed the error is ErrEnded.
func (p *Process) PIDFD() (fd int, err error) {
	err = p.whileAlive(func() error {
		fd, err = unix.PidfdOpen(p.pid, 0)
		return err
	})
	return fd, err
}

// Stops delivers the stops of a process that this program traces (ptrace(2)), as
// waitid(2) has them in si_status: a signal, and an event shifted by 8. Each is to
// be received before the process goes on. Call it before tracing.
func (p *Process) Stops() <-chan int {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.stops == nil {
		p.stops = make(chan int, 1)
	}
	return p.stops
}

// whileAlive runs f, which must not block, if the process has not been
// collected.
func (p *Process) whileAlive(f func() error) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.r.live[p.pid] != p {
		return ErrEnded
	}
	return f()
}

// Reaper collects children. The zero value is not usable: see New.
type Reaper struct {
	sigchld chan os.Signal

	// mu is never held across anything that blocks; every wait under it has
	// WNOHANG.
	mu sync.Mutex
	// live holds the started processes that have not been collected.
	live map[int]*Process
	// forks counts calls of Start whose fork has not returned.
	forks int
	// early holds what was collected while forks > 0 and belongs to no live
	// process: it may be the child of a fork that is about to return.
	early map[int]Exit
}

// New returns a reaper that does nothing until Run.
func New() *Reaper {
	return &Reaper{
		sigchld: make(chan os.Signal, 1),
		live:    make(map[int]*Process),
		early:   make(map[int]Exit),
	}
}

// Run collects children until ctx ends. It returns ctx's error; children that
// end afterwards stay uncollected.
func (r *Reaper) Run(ctx context.Context) error {
	// Not in New: the first use of signals takes the Go runtime milliseconds.
	signal.Notify(r.sigchld, unix.SIGCHLD)
	defer signal.Stop(r.sigchld)
	for {
		r.collect()
		select {
		case <-r.sigchld:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Start calls fork, which starts one child of this process and returns its
// process ID, and registers that child. An error of fork is returned as it is.
//
// Fork may take long; other Starts and the collection of children go on in the
// meantime.
func (r *Reaper) Start(fork func() (pid int, err error)) (*Process, error) {
	r.mu.Lock()
	r.forks++
	r.mu.Unlock()

	pid, err := fork()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.forks--
	defer func() {
		if r.forks == 0 {
			clear(r.early)
		}
	}()
	if err != nil {
		return nil, err
	}
	if pid <= 0 {
		return nil, fmt.Errorf("fork returned process ID %d", pid)
	}
	p := &Process{r: r, pid: pid, done: make(chan struct{})}
	if exit, ok := r.early[pid]; ok && !isChild(pid) {
		p.exit = exit
		close(p.done)
		return p, nil
	}
	// What early may hold for this number was an orphan that had the number
	// before; the child itself is there to be collected, now or later.
	r.live[pid] = p
	return p, nil
}

// collect waits for every child that has ended.
func (r *Reaper) collect() {
	for r.collectOne() {
	}
}

// collectOne collects one ended child and reports whether there was one. The
// wait and its record are one step under mu, so that Start can tell a child
// that has been collected from one that has not.
func (r *Reaper) collectOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := waitid(unix.P_ALL, 0, unix.WEXITED|unix.WNOHANG|unix.WALL)
	if err != nil || info.pid == 0 {
		return false // ECHILD: no children at all
	}
	if info.code == trapped {
		// waitid(2) tells stops of tracees whether asked for or not.
		if p := r.live[info.pid]; p != nil && p.stops != nil {
			select {
			case p.stops <- int(info.status):
			default: // it goes on without having been received
			}
		}
		return true
	}
	exit := Exit{Status: info.exitStatus(), Time: time.Now()}
	if p, ok := r.live[info.pid]; ok {
		delete(r.live, info.pid)
		p.exit = exit
		close(p.done)
	} else if r.forks > 0 {
		r.early[info.pid] = exit
	}
	return true
}

// isChild reports whether pid is a child that has not been collected.
func isChild(pid int) bool {
	_, err := waitid(unix.P_PID, pid, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL)
	return err == nil
}

// childInfo is the part of siginfo_t that waitid(2) fills in.
type childInfo struct {
	pid    int // 0: no child has ended
	code   int32
	status int32
}

const trapped = 4 // CLD_TRAPPED

// exitStatus turns a status into a number as a shell shows it.
func (c childInfo) exitStatus() int {
	const exited = 1 // CLD_EXITED; the others are deaths by signal
	if c.code == exited {
		return int(c.status) & 0xff
	}
	return 128 + int(c.status)
}

func waitid(kind, id, options int) (childInfo, error) {
	// The layout of siginfo_t for SIGCHLD on 64-bit Linux,
	// include/uapi/asm-generic/siginfo.h.
	var info struct {
		signo, errno, code, _ int32
		pid, uid, status      int32
		_                     [100]byte
	}
	for {
		err := unix.Waitid(kind, id, (*unix.Siginfo)(unsafe.Pointer(&info)), options, nil)
		if err == unix.EINTR {
			continue
		}
		return childInfo{pid: int(info.pid), code: info.code, status: info.status}, err
	}
}
