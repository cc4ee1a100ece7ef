// Package ownedfd is a file descriptor with one owner, for descriptors that are
// used by number and are not files that are read and written (O_PATH folders,
// mounts, cgroups, netlink sockets); what is read and written is an os.File.
//
// The kernel gives a number away again as soon as it is closed. An [FD] is
// therefore never closed while it is used, and never used when it has been
// closed, whatever goroutines do it: the rule that package os keeps for files.
package ownedfd

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// FD is a file descriptor. The zero value is a closed one. Its methods may be
// called concurrently.
type FD struct {
	mu     sync.Mutex
	open   bool
	number int
	uses   int
}

// New returns an FD that owns the descriptor number: nobody else closes it.
func New(number int) *FD { return &FD{open: true, number: number} }

// Use calls f with the number, which stays valid until f returns and not longer.
// When the FD has been closed, f is not called and the error is os.ErrClosed.
// Within f other uses, and Close, are allowed.
func (d *FD) Use(f func(number int) error) error {
	number, err := d.acquire()
	if err != nil {
		return err
	}
	defer d.release()
	return f(number)
}

func (d *FD) acquire() (int, error) {
	if d == nil {
		return -1, os.ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open {
		return -1, os.ErrClosed
	}
	d.uses++
	return d.number, nil
}

func (d *FD) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses--; d.uses == 0 && !d.open {
		unix.Close(d.number)
	}
}

// Close refuses further uses at once. It does not wait for those that run: the
// last of them closes the number. A further call returns os.ErrClosed.
func (d *FD) Close() error {
	if d == nil {
		return os.ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open {
		return os.ErrClosed
	}
	d.open = false
	if d.uses > 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(d.number))
}

// Number is the number, or -1 when the FD has been closed. It is for callers
// that own the FD alone and do not close it meanwhile; all others call Use.
func (d *FD) Number() int {
	if d == nil {
		return -1
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open {
		return -1
	}
	return d.number
}
