package stage

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/guest/container/apply"
	"kata/guest/container/capability"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/lib/fmt"
)

// become turns the stage into the process of the plan. It returns only with an
// error. Last runs with the rights and limits of the process, just before it
// is executed.
//
// The process's user and effective capabilities come first, so that its command
// is found, or not, with the permissions it will have; the permitted capabilities
// are kept until the end, because raising a resource limit takes one. Limits come
// last: they could be too tight for the stage itself.
func become(c conn, all *plan.Plan, last func() error) error {
	p := &all.Process
	user, err := resolve(&p.Names, p.User)
	if err != nil {
		return err
	}
	env := environment(p.Env, user.UID)
	if err := ownStreams(user.UID); err != nil {
		return err
	}
	if !all.Privileged {
		if err := apply.Priorities(0, p); err != nil {
			return err
		}
	}
	if err := setDomain(all.Common.Personality); err != nil {
		return err
	}
	if err := setMemoryPolicy(all.Common.Memory); err != nil {
		return err
	}
	// A directory that root may enter and the user may not is fine, as under
	// runc; one that root may not enter, on a network file system, is tried
	// again as the user.
	entered := enterDirectory(p.Cwd)
	if entered != nil && !errors.Is(entered, unix.EACCES) {
		return entered
	}
	caps := p.Capabilities
	if err := caps.LimitBounding(); err != nil {
		return err
	}
	if err := setUser(&user); err != nil {
		return err
	}
	if err := caps.Adopt(0); err != nil {
		return err
	}
	if entered != nil {
		if err := enterDirectory(p.Cwd); err != nil {
			return err
		}
	}
	unix.Umask(int(user.Umask))
	path, err := lookPath(p.Args[0], env)
	if err != nil {
		return commandError{err}
	}
	if limitsMemory(p.Rlimits) {
		runtime.GC() // what is allocated from here on must find room in the heap
	}
	if err := c.send(plan.Ready, nil); err != nil {
		return err
	}
	if err := c.awaitGo(); err != nil {
		unix.Exit(1) // the runtime gave up
	}
	resetSignals() // a filter may forbid it
	if err := restrict(all); err != nil {
		return err
	}
	if err := last(); err != nil {
		return err
	}
	err = syscall.Exec(path, p.Args, env)
	return commandError{fmt.Errorf("exec %s: %w", path, err)}
}

// restrict gives up what the stage had and the process must not have.
func restrict(all *plan.Plan) error {
	p, caps := &all.Process, &all.Process.Capabilities
	const admin capability.Set = 1 << unix.CAP_SYS_ADMIN
	if err := caps.Adopt(capability.SysResource | admin); err != nil {
		return err
	}
	for _, limit := range p.Rlimits {
		if err := setRlimit(limit, all.Privileged); err != nil {
			return err
		}
	}
	// Without no_new_privs a filter takes CAP_SYS_ADMIN; with it, it can come
	// last, when nothing but execve is left for it to allow.
	if !p.NoNewPrivileges {
		if err := loadSeccomp(&all.Common); err != nil {
			return err
		}
	}
	if err := caps.Finish(); err != nil {
		return err
	}
	if !p.NoNewPrivileges {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return loadSeccomp(&all.Common)
}

// setUser changes the calling thread's groups and user and keeps its permitted
// capabilities. The system calls are made directly: those of package syscall
// would change all threads, and only this one is going to be left.
func setUser(u *plan.User) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	var groups unsafe.Pointer
	if len(u.Groups) > 0 {
		groups = unsafe.Pointer(&u.Groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.Groups)), uintptr(groups), 0); errno != 0 {
		return fmt.Errorf("set additional groups %v: %w", u.Groups, errno)
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set group %d: %w", u.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("set user %d: %w", u.UID, errno)
	}
	return unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0)
}

// ownStreams gives the standard streams to the user, so that it can open
// /dev/stdout, and replaces the guest's null device by the container's.
func ownStreams(uid uint32) error {
	for fd := range 3 {
		if rootfs.IsNull(fd) {
			useContainerNull(fd)
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("standard stream %d: %w", fd, err)
		}
		if st.Uid == uid {
			continue
		}
		err := unix.Fchown(fd, int(uid), -1)
		if err != nil && err != unix.EINVAL && err != unix.EPERM && err != unix.EROFS {
			return fmt.Errorf("give standard stream %d to user %d: %w", fd, uid, err)
		}
	}
	return nil
}

// useContainerNull puts the container's null device on fd. Where the container
// has none, or something else in its place, the guest's stays.
func useContainerNull(fd int) {
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(null)
	if !rootfs.IsNull(null) {
		return
	}
	opened, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(opened)
	if !rootfs.IsNull(opened) {
		return
	}
	if _, err := unix.FcntlInt(uintptr(opened), unix.F_SETFL, 0); err != nil {
		return
	}
	_ = unix.Dup3(opened, fd, 0)
}

// enterDirectory changes to the working directory and makes sure that it is in
// the container (CVE-2024-21626): a descriptor could lead out of it.
func enterDirectory(cwd string) error {
	if cwd == "" {
		cwd = "/"
	}
	if err := unix.Chdir(cwd); err != nil {
		return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", cwd, err)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	// Outside of the root the kernel answers "(unreachable)/…".
	if err == nil && (n < 1 || buf[0] != '/') {
		err = errors.New("it is outside of the container")
	}
	if err != nil {
		return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", cwd, err)
	}
	return nil
}

// resetSignals undoes what execve would hand on: ignored signals and the mask.
func resetSignals() {
	type sigaction struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	const ignore = 1 // SIG_IGN
	const setmask = 2
	for sig := uintptr(1); sig <= 64; sig++ {
		var now, reset sigaction
		size := unsafe.Sizeof(now.mask)
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), size, 0, 0)
		if errno == 0 && now.handler == ignore {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&reset)), 0, size, 0, 0)
		}
	}
	var none uint64
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setmask, uintptr(unsafe.Pointer(&none)), 0, unsafe.Sizeof(none), 0, 0)
}
