package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Eventfds belong to us and the VMM together: at any time it may make them
// blocking or fill or empty their counters. The functions here make sure that
// it cannot hold up the end of a session by that, once it is dead at least.

// caller interrupts the driver through an eventfd.
type caller struct {
	mu sync.Mutex // guards fd's life, but not its use by interrupt
	fd int        // -1 for none
}

// set replaces the descriptor; nothing uses the old one.
func (c *caller) set(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	c.fd = fd
}

// interrupt must not be called while set may be. A full counter means that
// the driver has an interrupt pending anyway.
func (c *caller) interrupt() {
	if c.fd >= 0 {
		one := [8]byte{1}
		_, _ = unix.Write(c.fd, one[:])
	}
}

// release lets an interrupt go on that blocks because the VMM filled the
// counter of a descriptor it made blocking.
func (c *caller) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var counter [8]byte
	if c.fd >= 0 && polled(c.fd, unix.POLLIN) {
		_, _ = unix.Read(c.fd, counter[:])
	}
}

// kicker waits for the driver's kicks on one eventfd, through Go's poller.
type kicker struct {
	f       *os.File
	stopped atomic.Bool
	done    chan struct{} // closed when run is over
}

// newKicker takes over fd, also beside an error.
func newKicker(fd int) (*kicker, error) {
	if err := checkEventFD(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &kicker{f: os.NewFile(uintptr(fd), "kick"), done: make(chan struct{})}, nil
}

// run calls available once for every kick and wake until that fails or the
// kicker stops.
func (k *kicker) run(available func() error, fail func(error)) {
	defer close(k.done)
	var counter [8]byte
	for !k.stopped.Load() {
		_, err := k.f.Read(counter[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// A wake. What comes after this line sets the deadline anew.
			err = k.f.SetReadDeadline(time.Time{})
		}
		switch {
		case k.stopped.Load():
			return // whatever a closed file's error is
		case err != nil:
			fail(fmt.Errorf("wait for kick: %w", err))
			return
		}
		if err := available(); err != nil && !errors.Is(err, ErrStopped) {
			fail(err)
			return
		}
	}
}

// wake makes run call available. It does not go through the eventfd, whose
// counter may be full: callers hold locks that the reader wants.
func (k *kicker) wake() { _ = k.f.SetReadDeadline(time.Unix(1, 0)) }

// stop ends run, and waits for it.
func (k *kicker) stop() {
	k.stopped.Store(true)
	// A reader that the VMM made block waits for the counter; it does not
	// wait again.
	if c, err := k.f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) {
			one := [8]byte{1}
			if polled(int(fd), unix.POLLOUT) {
				_, _ = unix.Write(int(fd), one[:])
			}
		})
	}
	_ = k.f.Close()
	<-k.done
}

// polled reports whether fd is ready for events now.
func polled(fd int, events int16) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&events != 0
}

// checkEventFD makes sure that fd is an eventfd and non-blocking: a read or
// write of anything else could block for ever or do harm.
func checkEventFD(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return fmt.Errorf("identify event descriptor: %w", err)
	}
	if name != "anon_inode:[eventfd]" {
		return fmt.Errorf("%w: event descriptor is %s", ErrFrontend, name)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set event descriptor non-blocking: %w", err)
	}
	return nil
}
