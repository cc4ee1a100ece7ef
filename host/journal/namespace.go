package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/lib/thread"
)

// Namespace names a mount namespace, by device and inode of its file (stat(2) of
// /proc/PID/ns/mnt; namespaces(7)).
type Namespace struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

func ownNamespace() (Namespace, error) { return namespaceAt("/proc/self/ns/mnt") }

func namespaceAt(path string) (Namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Namespace{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return Namespace{st.Dev, st.Ino}, nil
}

// do runs f in the namespace: here if it is our own, else on a thread that joins
// that of a process that is still in it. If there is none f does not run.
func (n Namespace) do(ctx context.Context, f func() error) error {
	own, err := ownNamespace()
	if err != nil {
		return err
	}
	if own == n {
		return f()
	}
	file, err := n.open(ctx)
	if file == nil {
		return err
	}
	defer file.Close()
	return inNamespace(file, unix.CLONE_NEWNS, f)
}

// open opens the namespace through a process in it; nil if there is none.
func (n Namespace) open(ctx context.Context) (*os.File, error) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		path := filepath.Join("/proc", p.Name(), "ns/mnt")
		if there, err := namespaceAt(path); err != nil || there != n {
			continue // it has ended, or is elsewhere
		}
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		if there, err := namespaceAt(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err == nil && there == n {
			return file, nil
		}
		file.Close() // the pid is another's by now
	}
	return nil, nil
}

// inNamespace runs f on a thread in the namespace, and ends that thread.
func inNamespace(ns *os.File, kind int, f func() error) (err error) {
	thread.Spend(func() {
		// setns(2) into a mount namespace wants a root and working directory of
		// the thread's own.
		err = unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), kind)
		}
		if err != nil {
			err = fmt.Errorf("join namespace %s: %w", ns.Name(), err)
			return
		}
		err = f()
	})
	return err
}
