package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"kata/test/vmtest/wire"
)

// execute runs the job, with its stdout and stderr going to the port, and
// returns its exit status, or 128 + signal. As PID 1 it collects orphans.
func execute(job wire.Job, port io.Writer) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	child, err := os.StartProcess(job.Args[0], job.Args, &os.ProcAttr{
		Dir: job.Dir, Env: job.Env, Files: []*os.File{null, w, w},
	})
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", job.Args[0], err)
	}
	copied := make(chan error, 1)
	go func() { copied <- pass(r, port) }()

	status, err := reap(child.Pid)
	if err != nil {
		return 0, err
	}
	// What the program wrote is in the pipe by now; what its orphans may
	// still write is not waited for.
	if err := r.SetReadDeadline(aLongTimeAgo); err != nil {
		return 0, err
	}
	if err := <-copied; err != nil {
		return 0, err
	}
	return status, drain(r, port)
}

// reap waits for every child until it has the one it was asked for.
func reap(pid int) (int, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case got != pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
