package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/cpulist"
	"kata/lib/fmt"
)

// SetAffinity keeps the thread pid, 0 for the calling one, on the processors of
// a list that are among have, the list of those that there are, or on others in
// their place (cpulist.Set.Onto).
func SetAffinity(pid int, list, have string) error {
	set, err := cpulist.Parse(list)
	if err != nil {
		return fmt.Errorf("run on processors %s: %w", list, err)
	}
	there, err := cpulist.Parse(have)
	if err != nil {
		return err
	}
	set = set.Onto(there)
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(pid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	if errno != 0 {
		return fmt.Errorf("run on processors %s, which are %s here: %w", list, set.String(), errno)
	}
	return nil
}

// memoryModes and memoryFlags are the numbers of set_mempolicy(2),
// include/uapi/linux/mempolicy.h.
var memoryModes = map[string]uintptr{
	"MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
	"MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}

var memoryFlags = map[string]uintptr{
	"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15,
}

const maxNodes = 1024

// memoryPolicy returns the arguments of set_mempolicy(2).
func memoryPolicy(p *ocipb.LinuxMemoryPolicy) (mode uintptr, nodes [maxNodes / 64]uint64, err error) {
	mode, ok := memoryModes[p.Mode]
	if !ok {
		return 0, nodes, fmt.Errorf("mode %q is unknown", p.Mode)
	}
	for _, name := range p.Flags {
		flag, ok := memoryFlags[name]
		if !ok {
			return 0, nodes, fmt.Errorf("flag %q is unknown", name)
		}
		mode |= flag
	}
	if p.Nodes != "" {
		err = cpulist.Each(p.Nodes, maxNodes, func(n int) { nodes[n/64] |= 1 << (n % 64) })
	}
	if err != nil {
		return 0, nodes, fmt.Errorf("nodes %w", err)
	}
	return mode, nodes, nil
}

// CheckMemoryPolicy says what is wrong with a policy, if the kernel need not be
// asked.
func CheckMemoryPolicy(p *ocipb.LinuxMemoryPolicy) error {
	_, _, err := memoryPolicy(p)
	return err
}

func setMemoryPolicy(p *ocipb.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, nodes, err := memoryPolicy(p)
	if err != nil {
		return fmt.Errorf("linux.memoryPolicy: %w", err)
	}
	mask, bits := uintptr(unsafe.Pointer(&nodes)), uintptr(maxNodes+1) // the kernel looks at one bit less
	if p.Nodes == "" {
		mask, bits = 0, 0
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, mode, mask, bits)
	switch {
	case errno == unix.ENOSYS:
		return refusedError{fmt.Errorf("linux.memoryPolicy %s: this kernel has no NUMA policies", p.Mode)}
	case errno != 0:
		return fmt.Errorf("linux.memoryPolicy %s %s: %w", p.Mode, p.Nodes, errno)
	}
	return nil
}
