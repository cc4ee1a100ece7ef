// Package nsexec starts a program in namespaces that package syscall cannot put it
// into: a user namespace that exists already, and time namespaces (clone, setns(2),
// unshare(2) and execveat(2) in a process of one thread, runc's nsexec).
//
// The kernel lets only a process of one thread change these, and a Go program
// never is one. So a process is forked, with a memory of its own, that does
// nothing but system calls up to its execve(2); it is the thread that forked,
// alone. Everything it needs is laid out in memory before.
//
// It is slower than syscall.ForkExec, which borrows the parent's memory, and is
// for those who need it.
package nsexec

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Namespaces are namespaces to join: those of setns(2)'s flags that a
// descriptor stands for, which is of a namespace or a pidfd.
type Namespaces struct {
	FD    int
	Flags int
}

// Program is what to start, and where.
type Program struct {
	// Exe is a descriptor of the executable file, which may be an O_PATH one.
	Exe       int
	Args, Env []string
	// Files are the descriptors of the program from 0 on.
	Files []uintptr
	// Cgroup is a descriptor of the cgroup that it is born in, -1 for the
	// caller's.
	Cgroup int
	// Enter are joined first, with the caller's rights. The pid namespace
	// belongs here.
	Enter []Namespaces
	// Join are joined next: a user namespace, whose root the program will be,
	// and a time namespace.
	Join []Namespaces
	// New are the CLONE_NEW* flags of new namespaces; their owner is the user
	// namespace that is joined or made.
	New uintptr
	// UIDMap and GIDMap are for a new user namespace, in the form of
	// user_namespaces(7).
	UIDMap, GIDMap string
	// Offsets are for a new time namespace, in the form of time_namespaces(7).
	Offsets string
}

// Start starts the program as a child of the calling process, in a session of
// its own, and returns when it is executing. A further child, which helps, may
// end meanwhile.
func Start(p *Program) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread joins what it cannot leave
		pid, err = p.start()
	}()
	<-done
	return pid, err
}

// start does it on a thread that is not used afterwards.
func (p *Program) start() (int, error) {
	for _, n := range p.Enter {
		if err := unix.Setns(n.FD, n.Flags); err != nil {
			return 0, fmt.Errorf("join the %s: %w", namespaceNames(n.Flags), err)
		}
	}
	var report, maps [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	reports := os.NewFile(uintptr(report[0]), "report")
	defer reports.Close()
	if err := unix.Pipe2(maps[:], unix.O_CLOEXEC); err != nil {
		unix.Close(report[1])
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(maps[1])
	c, err := p.child(report[1], maps[0])
	var pid int
	if err == nil {
		defer c.release()
		pid, err = c.start()
	}
	unix.Close(report[1])
	unix.Close(maps[0])
	if err != nil {
		return 0, err
	}
	if p.New&unix.CLONE_NEWUSER != 0 {
		if err = p.writeMaps(pid); err == nil {
			_, err = unix.Write(maps[1], []byte{1})
		}
		if err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			return 0, err
		}
	}
	return await(reports, pid)
}

// await reads what the child reports until it executes its program: the end.
func await(reports io.Reader, pid int) (int, error) {
	for {
		var r [8]byte
		if _, err := io.ReadFull(reports, r[:]); errors.Is(err, io.EOF) {
			return pid, nil
		} else if err != nil {
			return 0, err
		}
		step, value := binary.NativeEndian.Uint32(r[:]), binary.NativeEndian.Uint32(r[4:])
		if step == stepForked {
			pid = int(value)
			continue
		}
		err := error(syscall.Errno(value))
		if int(step) < len(stepNames) {
			err = fmt.Errorf("%s: %w", stepNames[step], err)
		}
		return 0, err
	}
}

func (p *Program) writeMaps(pid int) error {
	dir := "/proc/" + strconv.Itoa(pid)
	for _, m := range [...]struct{ name, text string }{{"uid_map", p.UIDMap}, {"gid_map", p.GIDMap}} {
		if err := os.WriteFile(dir+"/"+m.name, []byte(m.text), 0); err != nil {
			return fmt.Errorf("write %s %q: %w", m.name, m.text, err)
		}
	}
	return nil
}

// child lays out what the child needs. It holds duplicates of the program's
// files above all numbers that they are to have, until release.
func (p *Program) child(report, maps int) (*child, error) {
	c := &child{
		report: uintptr(report), maps: uintptr(maps), exe: uintptr(p.Exe),
	}
	c.setPaths()
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &c.nofile); err != nil {
		return nil, err
	}
	// Go raises the soft limit for itself to one below the hard limit, and
	// nobody else would. Before, it was what the kernel gives init.
	if c.nofile.Cur == c.nofile.Max-1 {
		c.nofile.Cur = min(c.nofile.Cur, 1024)
	}
	argv, err := syscall.SlicePtrFromStrings(p.Args)
	if err != nil {
		return nil, err
	}
	env, err := syscall.SlicePtrFromStrings(p.Env)
	if err != nil {
		return nil, err
	}
	c.argv, c.env = argv, env
	c.offsets = []byte(p.Offsets)
	for _, n := range p.Join {
		c.join = append(c.join, [2]uintptr{uintptr(n.FD), uintptr(n.Flags)})
		c.joinsUser = c.joinsUser || n.Flags&unix.CLONE_NEWUSER != 0
	}
	c.root = c.joinsUser || p.New&unix.CLONE_NEWUSER != 0
	c.newTime = p.New&unix.CLONE_NEWTIME != 0
	flags := p.New &^ uintptr(unix.CLONE_NEWTIME)
	if c.joinsUser {
		// They are to be made when the user namespace is joined.
		c.unshare, c.forks = flags&^uintptr(unix.CLONE_NEWPID), flags&unix.CLONE_NEWPID != 0
		flags = 0
	}
	c.awaitMaps = flags&unix.CLONE_NEWUSER != 0
	c.clone = cloneArgs{flags: uint64(flags), exitSignal: uint64(unix.SIGCHLD)}
	if p.Cgroup >= 0 {
		c.clone.flags |= unix.CLONE_INTO_CGROUP
		c.clone.cgroup = uint64(p.Cgroup)
	}
	for _, fd := range p.Files {
		above, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, len(p.Files))
		if err != nil {
			c.release()
			return nil, err
		}
		c.files = append(c.files, uintptr(above))
	}
	return c, nil
}

func (c *child) release() {
	for _, fd := range c.files {
		unix.Close(int(fd))
	}
}

// start forks, with all signals blocked so that no handler of the Go runtime
// runs in the child.
func (c *child) start() (int, error) {
	all := ^uint64(0)
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	mask(uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&c.mask)))
	pid, errno := fork(c)
	mask(uintptr(unsafe.Pointer(&c.mask)), 0)
	runtime.KeepAlive(c)
	runtime.KeepAlive(&all)
	if errno != 0 {
		return 0, os.NewSyscallError("clone3", errno)
	}
	return int(pid), nil
}

// namespaceNames says in words which namespaces flags stand for.
func namespaceNames(flags int) string {
	text := ""
	for _, n := range [...]struct {
		flag int
		name string
	}{
		{unix.CLONE_NEWPID, "pid"}, {unix.CLONE_NEWNET, "network"}, {unix.CLONE_NEWIPC, "ipc"},
		{unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWCGROUP, "cgroup"}, {unix.CLONE_NEWNS, "mount"},
	} {
		if flags&n.flag != 0 {
			text += n.name + " "
		}
	}
	return text + "namespace"
}
