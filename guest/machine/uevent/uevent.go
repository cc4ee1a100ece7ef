// Package uevent waits for devices by what the kernel announces about them
// (NETLINK_KOBJECT_UEVENT), without polling.
//
// An announcement alone is no use: it may have come before anybody listened, and
// it may be lost when too many come at once. So it is taken as a hint to look
// again, and [Await] is the whole of it: look, subscribe, look, and look again
// after each announcement, until what is looked for is there.
//
//	err := uevent.Await(ctx, "block device /dev/vdb", timeout, func() (bool, error) {
//		_, err := os.Stat("/dev/vdb")
//		return err == nil, ignoreNotExist(err)
//	})
//
// Each wait has a socket of its own: nothing runs while nobody waits.
package uevent

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// kernelGroup is the multicast group of the kernel's announcements (2 is that of
// udev's).
const kernelGroup = 1

// watch is a subscription to the kernel's announcements.
type watch struct {
	file *os.File
	raw  syscall.RawConn
}

func open() (*watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "uevent")}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup})
	if err == nil {
		w.raw, err = w.file.SyscallConn()
	}
	if err != nil {
		_ = w.file.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return w, nil
}

// next waits until the kernel has announced something, or until ctx ends. What
// has been announced by then is read, as far as the kernel has kept it: whoever
// looks next sees what it was about.
func (w *watch) next(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer unhook()
	var err error
	waitErr := w.raw.Read(func(fd uintptr) bool {
		var told bool
		told, err = receive(int(fd))
		return told || err != nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(waitErr, err)
}

// maxBurst bounds what is read at once, should somebody announce faster than it
// is read.
const maxBurst = 256

// receive reads announcements until there are none, and reports whether there
// was one of the kernel's: a container that may administer the network can send
// others.
func receive(fd int) (told bool, err error) {
	for range maxBurst {
		var first [1]byte // the rest is of no interest
		_, from, err := unix.Recvfrom(fd, first[:], unix.MSG_DONTWAIT)
		switch err {
		case nil:
			sender, ok := from.(*unix.SockaddrNetlink)
			told = told || ok && sender.Pid == 0
		case unix.ENOBUFS: // some were lost
			told = true
		case unix.EINTR:
		case unix.EAGAIN:
			return told, nil
		default:
			return told, os.NewSyscallError("recvfrom", err)
		}
	}
	return true, nil // there is more, which the poller would not tell
}

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
	return e.What + " did not appear within " + e.After.String() + " (agent.hotplug_timeout)"
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
	bounded, cancel := context.WithTimeoutCause(ctx, timeout, expired)
	defer cancel()
	w, err := open()
	if err == nil {
		defer w.file.Close()
		for {
			if done, err := look(); done || err != nil {
				return err
			}
			if err = w.next(bounded); err != nil {
				break
			}
		}
	}
	if err == error(expired) {
		return expired
	}
	return fmt.Errorf("wait for %s: %w", what, err)
}
