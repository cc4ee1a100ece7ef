package nsexec

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// child is what the child works with.
type child struct {
	clone        cloneArgs
	mask         uint64 // of signals, as it was
	report, maps uintptr
	exe          uintptr
	argv, env    []*byte
	join         [][2]uintptr
	files        []uintptr
	nofile       syscall.Rlimit
	unshare      uintptr
	offsets      []byte

	joinsUser, awaitMaps, root, newTime, forks bool

	record      [2]uint32
	action      sigaction
	timeOffsets [32]byte
	timeForNew  [32]byte
	empty       [1]byte
}

// cloneArgs is struct clone_args, include/uapi/linux/sched.h.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// sigaction is the kernel's struct; the zero value is the default action.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// Steps of the child, for its reports.
const (
	stepForked = iota // no failure: the number of the process that goes on
	stepJoin
	stepMaps
	stepUnshare
	stepTime
	stepOffsets
	stepRoot
	stepFork
	stepFiles
	stepExec
)

var stepNames = [...]string{
	stepJoin: "join the user or time namespace", stepMaps: "wait for the ID mappings", stepUnshare: "make new namespaces",
	stepTime: "make a time namespace", stepOffsets: "set the offsets of the time namespace",
	stepRoot: "become the root of the user namespace", stepFork: "fork into the new pid namespace",
	stepFiles: "hand down descriptors", stepExec: "execute the program",
}

func (c *child) setPaths() {
	copy(c.timeOffsets[:], "/proc/self/timens_offsets\x00")
	copy(c.timeForNew[:], "/proc/self/ns/time_for_children\x00")
}

const setMask = 2 // SIG_SETMASK

// mask sets the thread's mask of signals to the one at the address set and
// stores the old one at the address old, if that is not 0.
//
//go:nosplit
//go:norace
func mask(set, old uintptr) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, set, old, 8, 0, 0)
}

// fork is the system call; the child does not return from it. Child and parent
// have different memory, so the one's stack is not the other's.
//
//go:nosplit
//go:norace
func fork(c *child) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&c.clone)), unsafe.Sizeof(c.clone), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	c.run()
	return 0, 0
}

// run is all that the child does. It must not allocate, grow its stack, write
// pointers or call anything that does: the Go runtime is not there any more.
//
//go:nosplit
//go:norace
func (c *child) run() {
	for i := range c.join {
		c.check(unix.SYS_SETNS, c.join[i][0], c.join[i][1], 0, stepJoin)
	}
	if c.awaitMaps {
		c.check(unix.SYS_READ, c.maps, uintptr(unsafe.Pointer(&c.record)), 1, stepMaps)
	}
	if c.unshare != 0 {
		c.check(unix.SYS_UNSHARE, c.unshare, 0, 0, stepUnshare)
	}
	if c.newTime {
		c.enterTime()
	}
	if c.root {
		c.check(unix.SYS_SETGROUPS, 0, 0, 0, stepRoot)
		c.check(unix.SYS_SETRESGID, 0, 0, 0, stepRoot)
		c.check(unix.SYS_SETRESUID, 0, 0, 0, stepRoot)
	}
	if c.forks {
		c.goOnInNewPIDs()
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	for i := range c.files {
		c.check(unix.SYS_DUP3, c.files[i], uintptr(i), 0, stepFiles)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&c.nofile)), 0, 0, 0)
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&c.action)), 0, 8, 0, 0)
	}
	mask(uintptr(unsafe.Pointer(&c.mask)), 0)
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, c.exe, uintptr(unsafe.Pointer(&c.empty)),
		uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.env[0])), unix.AT_EMPTY_PATH, 0)
	c.fail(stepExec, errno)
}

// enterTime makes a time namespace and moves the process into it, which
// unshare(2) alone does for children only. It comes before becoming root: the
// file of the offsets belongs to the user that the process was.
//
//go:nosplit
//go:norace
func (c *child) enterTime() {
	c.check(unix.SYS_UNSHARE, unix.CLONE_NEWTIME, 0, 0, stepTime)
	const here = ^uintptr(99) // AT_FDCWD, -100
	if len(c.offsets) > 0 {
		fd := c.check(unix.SYS_OPENAT, here, uintptr(unsafe.Pointer(&c.timeOffsets)), unix.O_WRONLY|unix.O_CLOEXEC, stepOffsets)
		c.check(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&c.offsets[0])), uintptr(len(c.offsets)), stepOffsets)
	}
	fd := c.check(unix.SYS_OPENAT, here, uintptr(unsafe.Pointer(&c.timeForNew)), unix.O_RDONLY|unix.O_CLOEXEC, stepTime)
	c.check(unix.SYS_SETNS, fd, unix.CLONE_NEWTIME, 0, stepTime)
}

// goOnInNewPIDs goes on as a process of a new pid namespace, which is a child
// of the parent like this one.
//
//go:nosplit
//go:norace
func (c *child) goOnInNewPIDs() {
	c.check(unix.SYS_UNSHARE, unix.CLONE_NEWPID, 0, 0, stepFork)
	pid := c.check(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, stepFork)
	if pid == 0 {
		return
	}
	c.say(stepForked, uint32(pid))
	exit(0)
}

// check makes a system call, which must succeed.
//
//go:nosplit
//go:norace
func (c *child) check(call, a, b, d uintptr, step uint32) uintptr {
	result, _, errno := syscall.RawSyscall(call, a, b, d)
	if errno != 0 {
		c.fail(step, errno)
	}
	return result
}

//go:nosplit
//go:norace
func (c *child) fail(step uint32, errno syscall.Errno) {
	c.say(step, uint32(errno))
	exit(1)
}

//go:nosplit
//go:norace
func (c *child) say(step, value uint32) {
	c.record[0], c.record[1] = step, value
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.report, uintptr(unsafe.Pointer(&c.record)), unsafe.Sizeof(c.record))
}

//go:nosplit
//go:norace
func exit(status uintptr) {
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}
