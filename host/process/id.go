package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process for ever: the kernel reuses a pid, but never with the
// same start time. It is a plain value, fit for a file on disk.
type ID struct {
	PID int `json:"pid"`
	// StartTime is in clock ticks since boot: field 22 of /proc/PID/stat.
	StartTime uint64 `json:"start_time"`
}

// Identify returns the identity of the process that has the pid now. The error
// wraps os.ErrNotExist when there is none.
func Identify(pid int) (ID, error) {
	start, _, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, StartTime: start}, nil
}

// String gives the pid, for logs.
func (id ID) String() string { return strconv.Itoa(id.PID) }

// Alive reports whether the process still runs. A zombie does not.
func (id ID) Alive() bool {
	start, state, err := readStat(id.PID)
	return err == nil && start == id.StartTime && state != 'Z' && state != 'X'
}

// Kill sends SIGKILL if the pid still names this process, and returns when the
// process has ended, or with ctx's error when it does not end in time. It does
// not reap: that is its parent's. A process that is gone already is no error.
func (id ID) Kill(ctx context.Context) error {
	fd, err := openPidfd(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	if err := fd.signal(unix.SIGKILL); err != nil {
		return err
	}
	return fd.wait(ctx)
}

// Wait returns when the process has ended (as a zombie or for good), or with
// ctx's error.
func (id ID) Wait(ctx context.Context) error {
	fd, err := openPidfd(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	return fd.wait(ctx)
}

// readStat returns start time and state letter of a process.
func readStat(pid int) (start uint64, state byte, err error) {
	if pid <= 0 {
		return 0, 0, fmt.Errorf("identify process %d: %w", pid, os.ErrNotExist)
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrNotExist
	}
	if err != nil {
		return 0, 0, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return parseStat(raw)
}

// parseStat reads one line of proc(5)'s stat. The second field is the command
// name in parentheses and may hold anything, so fields count from its end.
func parseStat(raw []byte) (start uint64, state byte, err error) {
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return 0, 0, errors.New("parse /proc stat: no command name")
	}
	fields := bytes.Fields(raw[end+1:])
	const stateField, startField = 0, 22 - 3 // fields 3 and 22, of which 3 is the first here
	if len(fields) <= startField || len(fields[stateField]) != 1 {
		return 0, 0, fmt.Errorf("parse /proc stat: %d fields after the name", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("parse /proc stat: start time: %w", err)
	}
	return start, fields[stateField][0], nil
}

// pidfd is an owned process descriptor that the Go poller waits on, so that
// waiting takes no thread.
type pidfd struct{ file *os.File }

// openPidfd opens the process named by id; the error wraps os.ErrNotExist when
// it is gone. The identity is compared after the descriptor is open: from then
// on the descriptor cannot come to mean another process.
func openPidfd(id ID) (*pidfd, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("open process %d: %w", id.PID, os.ErrNotExist)
	}
	raw, openErr := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(openErr, unix.ESRCH) {
		return nil, fmt.Errorf("open process %d: %w", id.PID, os.ErrNotExist)
	}
	now, err := Identify(id.PID)
	if openErr != nil {
		// Before Linux 6.9 a number that has no process any more, but is still
		// somebody's process group or session, is EINVAL.
		if errors.Is(err, os.ErrNotExist) || err == nil && now != id {
			openErr = os.ErrNotExist
		}
		return nil, fmt.Errorf("open process %d: %w", id.PID, openErr)
	}
	fd := &pidfd{os.NewFile(uintptr(raw), "pidfd")}
	if err == nil && now != id {
		err = fmt.Errorf("open process %d: %w", id.PID, os.ErrNotExist)
	}
	if err != nil {
		fd.Close()
		return nil, err
	}
	return fd, nil
}

func (p *pidfd) Close() { p.file.Close() }

func (p *pidfd) signal(sig unix.Signal) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := conn.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if sendErr != nil && !errors.Is(sendErr, unix.ESRCH) {
		return fmt.Errorf("signal process: %w", sendErr)
	}
	return nil
}

// wait returns when the process has ended; a pidfd is readable from then on.
func (p *pidfd) wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for process: %w", context.Cause(ctx))
	}
	return err
}
