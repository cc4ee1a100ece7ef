package ocispec

import (
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/cpulist"
	"kata/guest/container/plan"
	"kata/lib/fmt"
)

var schedulers = table{
	{"SCHED_OTHER", unix.SCHED_NORMAL}, {"SCHED_FIFO", unix.SCHED_FIFO}, {"SCHED_RR", unix.SCHED_RR},
	{"SCHED_BATCH", unix.SCHED_BATCH}, {"SCHED_IDLE", unix.SCHED_IDLE}, {"SCHED_DEADLINE", unix.SCHED_DEADLINE},
}

var schedulerFlags = table{
	{"SCHED_FLAG_RESET_ON_FORK", unix.SCHED_FLAG_RESET_ON_FORK}, {"SCHED_FLAG_RECLAIM", unix.SCHED_FLAG_RECLAIM},
	{"SCHED_FLAG_DL_OVERRUN", unix.SCHED_FLAG_DL_OVERRUN}, {"SCHED_FLAG_KEEP_POLICY", unix.SCHED_FLAG_KEEP_POLICY},
	{"SCHED_FLAG_KEEP_PARAMS", unix.SCHED_FLAG_KEEP_PARAMS}, {"SCHED_FLAG_UTIL_CLAMP_MIN", unix.SCHED_FLAG_UTIL_CLAMP_MIN},
	{"SCHED_FLAG_UTIL_CLAMP_MAX", unix.SCHED_FLAG_UTIL_CLAMP_MAX},
}

func parseScheduler(s *ocipb.LinuxScheduler) (*plan.Scheduler, error) {
	policy, ok := schedulers.find(s.Policy)
	if !ok {
		return nil, fmt.Errorf("policy %q is unknown", s.Policy)
	}
	if s.Nice < -20 || s.Nice > 19 {
		return nil, fmt.Errorf("nice %d is not between -20 and 19", s.Nice)
	}
	realtime := policy == unix.SCHED_FIFO || policy == unix.SCHED_RR
	if s.Priority != 0 && (!realtime || s.Priority < 1 || s.Priority > 99) {
		return nil, fmt.Errorf("priority %d is not possible with %s", s.Priority, s.Policy)
	}
	if policy != unix.SCHED_DEADLINE && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
		return nil, fmt.Errorf("runtime, deadline and period are for SCHED_DEADLINE, not %s", s.Policy)
	}
	attr := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, name := range s.Flags {
		flag, ok := schedulerFlags.find(name)
		if !ok {
			return nil, fmt.Errorf("flag %q is unknown", name)
		}
		attr.Flags |= uint64(flag)
	}
	return &plan.Scheduler{Policy: s.Policy, Attr: attr}, nil
}

// ioClasses are the classes of ioprio_set(2), which has no constants in package
// unix.
var ioClasses = table{{"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3}}

func parseIOPriority(p *ocipb.LinuxIOPriority) (*plan.IOPriority, error) {
	class, ok := ioClasses.find(p.Class)
	if !ok {
		return nil, fmt.Errorf("class %q is unknown", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return nil, fmt.Errorf("priority %d is not between 0 and 7", p.Priority)
	}
	return &plan.IOPriority{Class: p.Class, Number: int(class), Priority: int(p.Priority)}, nil
}

// personalities are the domains of personality(2).
var personalities = table{{"LINUX", 0}, {"LINUX32", 8}}

func parsePersonality(p *ocipb.LinuxPersonality) (uint32, error) {
	if p == nil {
		return 0, nil
	}
	domain, ok := personalities.find(p.Domain)
	if !ok {
		return 0, fmt.Errorf("domain %q is unknown", p.Domain)
	}
	if len(p.Flags) > 0 {
		return 0, fmt.Errorf("flag %q is unknown", p.Flags[0])
	}
	return domain, nil
}

// memoryModes and memoryFlags are the numbers of set_mempolicy(2),
// include/uapi/linux/mempolicy.h.
var memoryModes = table{
	{"MPOL_DEFAULT", 0}, {"MPOL_PREFERRED", 1}, {"MPOL_BIND", 2}, {"MPOL_INTERLEAVE", 3}, {"MPOL_LOCAL", 4},
	{"MPOL_PREFERRED_MANY", 5}, {"MPOL_WEIGHTED_INTERLEAVE", 6},
}

var memoryFlags = table{
	{"MPOL_F_NUMA_BALANCING", 1 << 13}, {"MPOL_F_RELATIVE_NODES", 1 << 14}, {"MPOL_F_STATIC_NODES", 1 << 15},
}

func parseMemoryPolicy(p *ocipb.LinuxMemoryPolicy) (*plan.MemoryPolicy, error) {
	if p == nil {
		return nil, nil
	}
	mode, ok := memoryModes.find(p.Mode)
	if !ok {
		return nil, fmt.Errorf("mode %q is unknown", p.Mode)
	}
	for _, name := range p.Flags {
		flag, ok := memoryFlags.find(name)
		if !ok {
			return nil, fmt.Errorf("flag %q is unknown", name)
		}
		mode |= flag
	}
	policy := &plan.MemoryPolicy{Name: p.Mode, Mode: uint64(mode)}
	if p.Nodes == "" {
		return policy, nil
	}
	policy.Nodes = make([]uint64, plan.MaxNodes/64)
	err := cpulist.Each(p.Nodes, plan.MaxNodes, func(n int) { policy.Nodes[n/64] |= 1 << (n % 64) })
	if err != nil {
		return nil, fmt.Errorf("nodes %w", err)
	}
	return policy, nil
}
