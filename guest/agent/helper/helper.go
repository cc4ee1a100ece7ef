// Package helper runs the programs of the guest's image that the agent needs so
// rarely that they are not part of it: each is a file in api.HelperDir, a static program
// that reads standard input, writes standard output and ends.
//
// A file of an image is memory of every guest, used or not. So a helper lies there
// packed (kata/lib/lzma), with the agent's own program for a dictionary, of which
// it shares the Go runtime; on a call it is unpacked into memory (memfd_create(2))
// that is gone when it has ended. A plain program in its place is run as it is.
//
// What a helper may take, give and need is bounded:
//
//	standard input    what a request may hold (4 MiB)
//	standard output   MaxOutput
//	standard error    maxText, of which it should use one line
//	time              the caller's context and Config.Timeout, then SIGKILL
//	at a time         the caller's business
package helper

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/fault"
	"kata/lib/fmt"
)

const (
	// MaxOutput bounds standard output, in bytes: less than an answer may hold.
	MaxOutput = 3 << 20

	maxText = 4 << 10
	// afterKill is how long the end of a helper is waited for that was killed.
	afterKill = 5 * time.Second
)

// Config is what helpers are run with.
type Config struct {
	// Dir is api.HelperDir but for tests.
	Dir string
	// Agent is the agent's program, the dictionary of packed helpers.
	Agent string
	// Timeout bounds a run.
	Timeout time.Duration
	// Reaper collects the processes.
	Reaper *reaper.Reaper
}

// MissingError says that the image has no such helper.
type MissingError struct{ Path string }

func (e *MissingError) Error() string { return "the guest's image has no " + e.Path }

// Unwrap tells what kind of failure that is.
func (e *MissingError) Unwrap() error { return fault.Unsupported }

// ExitError says that a helper has ended with another status than 0.
type ExitError struct {
	// Status is the exit status, or 128 plus the number of a signal.
	Status int
	// Text is what it wrote to standard error, without the space around.
	Text string
}

func (e *ExitError) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return "exit status " + strconv.Itoa(e.Status)
}

// Run runs a helper with arguments and returns its output. The error is a
// *MissingError, an *ExitError, wraps context.DeadlineExceeded or the cause of the
// end of ctx, or is what the kernel says.
func (c *Config) Run(ctx context.Context, name string, args []string, input []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	program, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(program)
	var files [3]int // standard input, output, error
	for i, size := range [...]int{len(input), MaxOutput, maxText} {
		if files[i], err = memory("helper", size); err != nil {
			return nil, err
		}
		defer unix.Close(files[i])
	}
	for done := 0; done < len(input); {
		n, err := unix.Pwrite(files[0], input[done:], int64(done))
		if err != nil {
			return nil, os.NewSyscallError("pwrite", err)
		}
		done += n
	}
	process, err := c.Reaper.Start(func() (int, error) {
		return syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(program), append([]string{name}, args...), &syscall.ProcAttr{
			Dir: "/", Env: []string{}, Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
			Sys: &syscall.SysProcAttr{Setsid: true},
		})
	})
	if err != nil {
		return nil, &os.PathError{Op: "run", Path: name, Err: err}
	}
	if err := c.wait(ctx, process); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if status := process.Exit().Status; status != 0 {
		text, err := written(files[2])
		return nil, errors.Join(&ExitError{status, strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))}, err)
	}
	return written(files[1])
}

// wait waits for the end of a process and sees to it when its time is over.
func (c *Config) wait(ctx context.Context, process *reaper.Process) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	select {
	case <-process.Done():
		return nil
	case <-ctx.Done():
	}
	_ = process.SignalGroup(unix.SIGKILL)
	limit := time.NewTimer(afterKill)
	defer limit.Stop()
	select {
	case <-process.Done():
	case <-limit.C:
	}
	return context.Cause(ctx)
}

// memory returns a file in memory of a size that does not change: what is written
// beyond it is refused.
func memory(name string, size int) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	err = unix.Ftruncate(fd, int64(size))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("ftruncate", err)
	}
	return fd, nil
}

// written returns what a process has written to a file: it has moved the position
// of the file that it was given.
func written(fd int) ([]byte, error) {
	n, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return nil, os.NewSyscallError("lseek", err)
	}
	data := make([]byte, n)
	read, err := unix.Pread(fd, data, 0) // of memory: all at once
	return data[:max(0, read)], os.NewSyscallError("pread", err)
}
