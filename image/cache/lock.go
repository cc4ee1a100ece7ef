package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock takes the lock of an entry, waiting for other processes. The lock goes
// with the process; its file stays, since removing it would let two in.
func (s *Store) lock(ctx context.Context, kind, key string, notify func(string)) (unlock func(), err error) {
	dir := filepath.Join(s.dir, kind)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "."+key+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	notify("waiting for another process that builds the " + kind)
	locked := make(chan error, 1)
	go func() { locked <- flock(fd) }()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		// flock cannot be interrupted: whoever gives up leaves it to end on
		// its own, and to give the lock back at once.
		go func() { <-locked; f.Close() }()
		return nil, context.Cause(ctx)
	}
}

func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}
