package stage

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/lib/fmt"
)

// CPUSet is the set of processors in a list such as "0-3,7" (cpuset(7), "List
// format").
func CPUSet(list string) (set unix.CPUSet, err error) {
	err = numbers(list, len(set)*64, func(n int) { set.Set(n) })
	return set, err
}

// numbers calls f for each number of a list such as "0-3,7"; all are below
// limit.
func numbers(list string, limit int, f func(n int)) error {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil || from > to {
			return fmt.Errorf("%q is not a list of numbers and ranges", list)
		}
		if to >= uint64(limit) {
			return fmt.Errorf("%q goes beyond %d", list, limit-1)
		}
		for n := from; n <= to; n++ {
			f(int(n))
		}
	}
	return nil
}

// SetAffinity keeps the thread pid, 0 for the calling one, on the processors of
// a list.
func SetAffinity(pid int, list string) error {
	set, err := CPUSet(list)
	if err == nil {
		err = unix.SchedSetaffinity(pid, &set)
	}
	if err != nil {
		return fmt.Errorf("run on processors %s: %w", list, err)
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
		err = numbers(p.Nodes, maxNodes, func(n int) { nodes[n/64] |= 1 << (n % 64) })
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
