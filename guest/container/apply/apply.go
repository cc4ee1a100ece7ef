// Package apply gives a process, or the namespaces of the calling thread, what a
// plan says. It is what the container's stage does for itself, and the runtime does
// for it where that takes rights outside of a user namespace.
package apply

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/guest/container/cpulist"
	"kata/guest/container/plan"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// Sysctls writes kernel parameters and ends with the first error that check,
// which is told how it went with each, returns. The procfs for it is mounted
// nowhere: on /proc there may be anything.
func Sysctls(all []plan.Sysctl, check func(s plan.Sysctl, err error) error) error {
	if len(all) == 0 {
		return nil
	}
	proc, err := mount.FS("proc", "proc", nil, mount.Attr{})
	if err != nil {
		return fmt.Errorf("procfs for sysctl: %w", err)
	}
	defer proc.Close()
	for _, s := range all {
		if err := check(s, setSysctl(proc.FD(), s)); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", s.Key, s.Value, err)
		}
	}
	return nil
}

func setSysctl(proc int, s plan.Sysctl) error {
	fd, err := unix.Openat2(proc, "sys/"+s.Path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(s.Value))
	return err
}

// Priorities sets scheduler and i/o priority of the thread pid, 0 for the calling
// one (sched_setattr(2), ioprio_set(2)).
func Priorities(pid int, p *plan.Process) error {
	if s := p.Scheduler; s != nil {
		if err := unix.SchedSetAttr(pid, &s.Attr, 0); err != nil {
			return fmt.Errorf("set scheduling policy %s: %w", s.Policy, err)
		}
	}
	if p := p.IOPriority; p != nil {
		const classShift, whoProcess = 13, 1
		value := uintptr(p.Number<<classShift | p.Priority)
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), value); errno != 0 {
			return fmt.Errorf("set i/o priority %s %d: %w", p.Class, p.Priority, errno)
		}
	}
	return nil
}

// Affinity keeps the thread pid, 0 for the calling one, on the processors of a set
// that are among have, the list of those that there are, or on others in their
// place (cpulist.Set.Onto).
func Affinity(pid int, wanted *cpulist.Set, have string) error {
	there, err := cpulist.Parse(have)
	if err != nil {
		return err
	}
	set := wanted.Onto(there)
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(pid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	if errno != 0 {
		return fmt.Errorf("run on processors %s, which are %s here: %w", wanted.String(), set.String(), errno)
	}
	return nil
}
