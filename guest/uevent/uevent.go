// Package uevent waits for devices by what the kernel announces about them
// (NETLINK_KOBJECT_UEVENT), without polling.
//
// An announcement alone is no use: it may have come before anybody listened, it
// may be lost when too many come at once, and a container that may administer
// the network can send some of its own. So it is taken as a hint to look again,
// and [Await] is the whole of it: subscribe, look, and look again after each
// announcement, until what is looked for is there.
//
//	err := uevent.Await(ctx, "block device /dev/vdb", timeout, func() (bool, error) {
//		_, err := os.Stat("/dev/vdb")
//		return err == nil, ignoreNotExist(err)
//	})
//
// A [Watch] is the subscription by itself, for those who want to know what
// happened. Each is a socket of its own: nothing runs while nobody waits.
package uevent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// kernelGroup is the multicast group of the kernel's announcements (2 is
	// that of udev's).
	kernelGroup = 1
	// maxMessage is more than the kernel puts into one (UEVENT_BUFFER_SIZE is
	// 2048, and the header before it is a path).
	maxMessage = 8 << 10
)

// Event is an announcement of the kernel.
type Event struct {
	// Action is what happened: add, remove, change, online, bind …
	Action string
	// Path is the device's, below /sys: /devices/pci0000:00/…
	Path string
	// Subsystem is block, net, cpu, memory …
	Subsystem string
	// Missed says that announcements were lost: look at everything again. The
	// other fields are empty.
	Missed bool

	vars []string
}

// Var returns a further variable of the announcement, such as DEVNAME, or "".
func (e *Event) Var(key string) string {
	for _, v := range e.vars {
		if name, value, _ := strings.Cut(v, "="); name == key {
			return value
		}
	}
	return ""
}

// parse returns the event in a message, or false for what is none of the
// kernel's.
func parse(message []byte) (Event, bool) {
	// ACTION@PATH and then KEY=VALUE, each ended by a zero byte
	// (lib/kobject_uevent.c).
	parts := strings.Split(strings.TrimSuffix(string(message), "\x00"), "\x00")
	action, path, ok := strings.Cut(parts[0], "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, false
	}
	e := Event{Action: action, Path: path, vars: parts[1:]}
	e.Subsystem = e.Var("SUBSYSTEM")
	return e, true
}

// Watch is a subscription. It has every announcement from Open on.
type Watch struct {
	file *os.File
	raw  syscall.RawConn
}

// Open subscribes to the kernel's announcements. The caller closes the watch.
// What nobody reads is kept by the kernel up to a bound, and an Event that says
// Missed follows when it is exceeded.
func Open() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "uevent")}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		_ = w.file.Close()
		return nil, err
	}
	return w, nil
}

// Close ends the subscription. A Next that waits fails.
func (w *Watch) Close() error { return w.file.Close() }

// Next waits for the next announcement until ctx ends. It is for one caller at
// a time.
func (w *Watch) Next(ctx context.Context) (Event, error) {
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		return Event{}, err
	}
	interrupted := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		_ = w.file.SetReadDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	defer func() {
		if !unhook() {
			<-interrupted // or it would end the next call
		}
	}()
	buf := make([]byte, maxMessage)
	for {
		n, own, err := w.receive(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return Event{Missed: true}, nil
		case ctx.Err() != nil:
			return Event{}, context.Cause(ctx)
		case err != nil:
			return Event{}, fmt.Errorf("receive uevent: %w", err)
		}
		if e, ok := parse(buf[:n]); ok && own {
			return e, nil
		}
	}
}

// receive waits for one message and tells whether it is the kernel's own.
func (w *Watch) receive(buf []byte) (n int, own bool, err error) {
	var from unix.Sockaddr
	waitErr := w.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return 0, false, waitErr
	}
	if err != nil {
		return 0, false, os.NewSyscallError("recvfrom", err)
	}
	sender, ok := from.(*unix.SockaddrNetlink)
	return n, ok && sender.Pid == 0, nil
}

// drain forgets announcements that are there already: whoever looks now sees
// what they are about.
func (w *Watch) drain() {
	buf := make([]byte, maxMessage)
	_ = w.raw.Control(func(fd uintptr) {
		for range maxDrain {
			if _, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); err == unix.EAGAIN {
				return
			}
		}
	})
}

// maxDrain bounds drain, should somebody announce faster than it reads.
const maxDrain = 256

// TimeoutError says that something did not appear in time. It is a
// context.DeadlineExceeded.
type TimeoutError struct {
	What  string
	After time.Duration
}

func (e *TimeoutError) Error() string {
	if e.After == 0 {
		return e.What + " is not there, and agent.hotplug_timeout forbids to wait for it"
	}
	return fmt.Sprintf("%s did not appear within %v (agent.hotplug_timeout)", e.What, e.After)
}

// Is makes the error a context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Await calls look until it reports true: at once, and again when the kernel has
// announced anything. An error of look ends it. After timeout, or look's first
// call if that is 0, it fails with a TimeoutError that has what in it; when ctx
// ends before, with ctx's cause. look is called from the caller's goroutine and
// should be quick; it is what decides, so nothing is lost if it appears between
// two calls, or if announcements are.
func Await(ctx context.Context, what string, timeout time.Duration, look func() (bool, error)) error {
	// Before anything is opened: mostly it is there already.
	if done, err := look(); done || err != nil {
		return err
	}
	expired := &TimeoutError{What: what, After: timeout}
	if timeout <= 0 {
		return expired
	}
	w, err := Open()
	if err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	defer w.Close()
	bounded, cancel := context.WithTimeoutCause(ctx, timeout, expired)
	defer cancel()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		if _, err := w.Next(bounded); err != nil {
			if errors.Is(err, expired) {
				return expired
			}
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		w.drain()
	}
}
