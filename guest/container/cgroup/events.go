package cgroup

import (
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// events is the content of cgroup.events.
type events struct {
	populated, frozen bool
}

func parseEvents(text string) events {
	var e events
	for line := range strings.Lines(text) {
		switch strings.TrimSpace(line) {
		case "populated 1":
			e.populated = true
		case "frozen 1":
			e.frozen = true
		}
	}
	return e
}

func (g *Group) events() (events, error) {
	text, err := g.read("cgroup.events")
	return parseEvents(text), err
}

// await returns when cgroup.events is as ready wants it, or with ctx's error.
// The kernel signals a change of the file as POLLPRI on a descriptor that has
// been read.
func (g *Group) await(ctx context.Context, ready func(events) bool) error {
	fd := -1
	err := g.dir.Use(func(dir int) (err error) {
		fd, err = unix.Openat(dir, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return &os.PathError{Op: "open", Path: "cgroup.events", Err: err}
	}
	defer unix.Close(fd)
	polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	if ctx.Done() != nil {
		cancel, err := cancelFD(ctx)
		if err != nil {
			return err
		}
		defer cancel.release()
		polled = append(polled, unix.PollFd{Fd: int32(cancel.fd), Events: unix.POLLIN})
	}
	buf := make([]byte, 256)
	for {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return &os.PathError{Op: "read", Path: "cgroup.events", Err: err}
		}
		if ready(parseEvents(string(buf[:n]))) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := unix.Poll(polled, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// cancellation is a descriptor that becomes readable when a context ends.
type cancellation struct {
	fd      int
	release func()
}

func cancelFD(ctx context.Context) (*cancellation, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // not zero in any byte order, and from zero it cannot block
	})
	return &cancellation{fd: fd, release: func() {
		if !stop() {
			<-done
		}
		unix.Close(fd)
	}}, nil
}
