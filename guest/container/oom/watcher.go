package oom

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/guest/agent/log"
	"kata/guest/container/cgroup"
)

// Watcher watches the containers of the guest.
type Watcher struct {
	log   *log.Logger
	queue queue
	file  *os.File // inotify
	raw   syscall.RawConn

	mu      sync.Mutex
	watched map[int32]*Container // by watch descriptor
}

// NewWatcher returns a watcher. Run has to run until Close.
func NewWatcher(log *log.Logger) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &Watcher{log: log, queue: queue{log: log, ended: make(chan struct{})}, watched: make(map[int32]*Container)}
	w.file = os.NewFile(uintptr(fd), "inotify")
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

// Close ends Run and what waits in Next, and releases the descriptor. Containers
// still count at exits. A further call returns os.ErrClosed.
func (w *Watcher) Close() error {
	err := w.file.Close()
	if err == nil {
		close(w.queue.ended)
	}
	return err
}

// Run looks after the containers whose counters change, until Close.
func (w *Watcher) Run() error {
	// A watch of a file gives events without a name.
	buf := make([]byte, 32*unix.SizeofInotifyEvent)
	for {
		n, err := w.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			for _, c := range w.touched(wd, mask) {
				c.look()
			}
			b = b[min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:]))):]
		}
	}
}

// touched returns the containers that an event of inotify is about.
func (w *Watcher) touched(wd int32, mask uint32) []*Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mask&unix.IN_Q_OVERFLOW != 0 { // it could have been any
		all := make([]*Container, 0, len(w.watched))
		for _, c := range w.watched {
			all = append(all, c)
		}
		return all
	}
	if c := w.watched[wd]; c != nil {
		return []*Container{c}
	}
	return nil
}

// Next waits until ctx ends for an event. After Close it fails with ErrClosed
// where it would have to wait.
func (w *Watcher) Next(ctx context.Context) (*Event, error) { return w.queue.next(ctx) }

// Container is a container that is watched. The methods of a nil one do nothing.
type Container struct {
	watcher *Watcher
	group   *cgroup.Group
	account *account
	wd      int32 // -1 without

	mu     sync.Mutex // held while the counter is read
	told   uint64     // of the counter, what has become events
	closed bool
}

// Watch watches a container from its creation on, until Container.Close. If the
// kernel does not watch, for want of the memory controller or of watches, kills
// are noticed only when a process of the container exits.
func (w *Watcher) Watch(id string, group *cgroup.Group) *Container {
	if w == nil {
		return nil
	}
	c := &Container{watcher: w, group: group, account: &account{id: id}, wd: -1}
	w.mu.Lock()
	err := w.add(c)
	w.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrNotExist):
		w.log.Debug("OOM kills are not counted: there is no memory controller", "container", id)
	case err != nil:
		w.log.Warn("OOM kills are noticed late", "container", id, "error", err)
	}
	c.look() // what happened before there was a watch
	return c
}

// add lets the kernel watch. It needs mu, so that an event finds the container.
func (w *Watcher) add(c *Container) error {
	var wd int
	var addErr error
	err := w.raw.Control(func(fd uintptr) {
		wd, addErr = unix.InotifyAddWatch(int(fd), c.group.OOMFile(), unix.IN_MODIFY)
	})
	if err = errors.Join(err, os.NewSyscallError("inotify_add_watch", addErr)); err != nil {
		return err
	}
	c.wd = int32(wd)
	w.watched[c.wd] = c
	return nil
}

// look makes events of the kills that have been counted and not told.
func (c *Container) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	kills, err := c.group.OOMKills()
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			c.watcher.log.Warn("OOM kills cannot be counted", "container", c.account.id, "error", err)
		}
		return
	}
	if kills > c.told {
		c.watcher.queue.post(c.account, kills-c.told)
		c.told = kills
	}
}

// Exited is to be called when a process of the container has been collected and
// its exit has not been told. It returns how many events of the container there
// have been since its creation, all kills up to the exit among them. By then they
// have been delivered, unless nobody takes events: nobody has asked for one or
// delivered one for three seconds, or the whole takes more than ten.
func (c *Container) Exited() (events uint64) {
	if c == nil {
		return 0
	}
	c.look()
	q := &c.watcher.queue
	q.mu.Lock()
	events = c.account.posted
	q.mu.Unlock()
	if events > 0 {
		q.awaitDelivered(c.account)
	}
	return events
}

// Close looks a last time and stops watching. It is to be called when all
// processes of the container have been killed, and before its cgroup is removed.
// A further call does nothing.
func (c *Container) Close() {
	if c == nil {
		return
	}
	c.look()
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return
	}
	w := c.watcher
	w.queue.mu.Lock()
	c.account.closed = true
	w.queue.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.wd >= 0 {
		delete(w.watched, c.wd)
		_ = w.raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(c.wd)) })
	}
}
