// Package seccomp loads the programs of a container's seccomp profile.
//
// The host compiles profiles (kata/host/seccomp); here bytes go into the
// kernel. It does not make room for them: without CAP_SYS_ADMIN the
// caller sets no_new_privs first. A program is for ever, for the thread that
// loads it and what it becomes: the container's init stage calls Load on the
// locked thread that goes on to execve.
package seccomp

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// instruction is the size of struct sock_filter in bytes.
const instruction = 8

// Listens says whether loading with these flags makes a listener.
func Listens(flags uint32) bool { return flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// Check says what is wrong with programs and flags, so that a request can be
// refused before there is a process. The error names the program by its place.
func Check(filters [][]byte, flags uint32) error {
	for i, filter := range filters {
		if n := len(filter); n == 0 || n%instruction != 0 || n/instruction > unix.BPF_MAXINSNS {
			return fmt.Errorf("seccomp filter %d has %d bytes, which is not a program", i, n)
		}
		if err := check(filter); err != nil {
			return fmt.Errorf("seccomp filter %d: %w", i, err)
		}
	}
	// Not TSYNC: the threads of this process are not the container's.
	const known = unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW |
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	if unknown := flags &^ known; unknown != 0 {
		return fmt.Errorf("seccomp filter flags %#x are not supported", unknown)
	}
	if flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 && !Listens(flags) {
		return fmt.Errorf("seccomp filter flags %#x: waiting needs a listener", flags)
	}
	if Listens(flags) && len(filters) != 1 {
		return fmt.Errorf("seccomp: a listener needs one filter, not %d", len(filters))
	}
	return nil
}

// Load loads programs into the calling thread, which must be locked, in their
// order. From the first on the thread is restricted: it must allow seccomp(2)
// if there is another, and what the caller does before execve.
//
// With SECCOMP_FILTER_FLAG_NEW_LISTENER it returns the descriptor on which
// calls are notified, close-on-exec and the caller's to pass on and close;
// else -1. After an error some programs may be loaded; the thread should end.
func Load(filters [][]byte, flags uint32) (listener int, err error) {
	if err := Check(filters, flags); err != nil {
		return -1, err
	}
	listener = -1
	for i, filter := range filters {
		program := unix.SockFprog{
			Len:    uint16(len(filter) / instruction),
			Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0])),
		}
		result, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&program)))
		runtime.KeepAlive(filter)
		if errno != 0 {
			return -1, fmt.Errorf("load seccomp filter %d of %d instructions: %w", i, program.Len, errno)
		}
		if Listens(flags) {
			listener = int(result)
		}
	}
	return listener, nil
}
