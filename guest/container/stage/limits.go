package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/container/seccomp"
	"kata/lib/fmt"
)

// setRlimit sets a limit, which if done the runtime has set.
func setRlimit(limit plan.Rlimit, done bool) error {
	if done && limit.Resource != unix.RLIMIT_NOFILE {
		return nil
	}
	// By package unix, which remembers that RLIMIT_NOFILE is not to be put
	// back on execve.
	err := unix.Setrlimit(limit.Resource, &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard})
	if err != nil {
		return fmt.Errorf("set %s to %d, %d: %w", limit.Name, limit.Soft, limit.Hard, err)
	}
	return nil
}

// limitsMemory reports whether the stage itself could run out of memory.
func limitsMemory(limits []plan.Rlimit) bool {
	for _, limit := range limits {
		if limit.Resource == unix.RLIMIT_AS || limit.Resource == unix.RLIMIT_DATA {
			return true
		}
	}
	return false
}

// loadSeccomp loads the compiled programs of a profile, for the calling thread.
func loadSeccomp(common *plan.Common) error {
	_, err := seccomp.Load(common.Filters, common.Flags) // no plan has a listener
	return err
}

// setDomain sets the execution domain (personality(2)).
func setDomain(domain uint32) error {
	if domain == 0 {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(domain), 0, 0); errno != 0 {
		return fmt.Errorf("set personality %#x: %w", domain, errno)
	}
	return nil
}

// setMemoryPolicy sets the NUMA policy (set_mempolicy(2)).
func setMemoryPolicy(p *plan.MemoryPolicy) error {
	if p == nil {
		return nil
	}
	mask, bits := uintptr(0), uintptr(0)
	if len(p.Nodes) > 0 {
		mask, bits = uintptr(unsafe.Pointer(&p.Nodes[0])), uintptr(64*len(p.Nodes)+1) // the kernel looks at one bit less
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(p.Mode), mask, bits)
	switch {
	case errno == unix.ENOSYS:
		return refusedError{fmt.Errorf("linux.memoryPolicy %s: this kernel has no NUMA policies", p.Name)}
	case errno != 0:
		return fmt.Errorf("linux.memoryPolicy %s: %w", p.Name, errno)
	}
	return nil
}
