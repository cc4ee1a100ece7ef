package stage

import (
	"fmt"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
)

var schedulers = map[string]uint32{
	"SCHED_OTHER": unix.SCHED_NORMAL, "SCHED_FIFO": unix.SCHED_FIFO, "SCHED_RR": unix.SCHED_RR,
	"SCHED_BATCH": unix.SCHED_BATCH, "SCHED_IDLE": unix.SCHED_IDLE, "SCHED_DEADLINE": unix.SCHED_DEADLINE,
}

var schedulerFlags = map[string]uint64{
	"SCHED_FLAG_RESET_ON_FORK": unix.SCHED_FLAG_RESET_ON_FORK, "SCHED_FLAG_RECLAIM": unix.SCHED_FLAG_RECLAIM,
	"SCHED_FLAG_DL_OVERRUN": unix.SCHED_FLAG_DL_OVERRUN, "SCHED_FLAG_KEEP_POLICY": unix.SCHED_FLAG_KEEP_POLICY,
	"SCHED_FLAG_KEEP_PARAMS": unix.SCHED_FLAG_KEEP_PARAMS, "SCHED_FLAG_UTIL_CLAMP_MIN": unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	"SCHED_FLAG_UTIL_CLAMP_MAX": unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// ioClasses are the classes of ioprio_set(2), which has no constants in package
// unix.
var ioClasses = map[string]int{"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

var personalities = map[string]uintptr{"LINUX": 0, "LINUX32": 8}

// setPriorities sets scheduler, i/o priority and execution domain of the
// calling thread, which is the one that executes the process.
func setPriorities(spec *ocipb.Spec) error {
	if s := spec.Process.Scheduler; s != nil {
		if err := setScheduler(s); err != nil {
			return err
		}
	}
	if p := spec.Process.IOPriority; p != nil {
		class, ok := ioClasses[p.Class]
		if !ok || p.Priority < 0 || p.Priority > 7 {
			return fmt.Errorf("i/o priority %s %d: unknown class or level", p.Class, p.Priority)
		}
		const classShift, whoProcess = 13, 1
		_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(class<<classShift|int(p.Priority)))
		if errno != 0 {
			return fmt.Errorf("i/o priority %s %d: %w", p.Class, p.Priority, errno)
		}
	}
	if p := spec.Linux.GetPersonality(); p != nil {
		domain, ok := personalities[p.Domain]
		if !ok || len(p.Flags) > 0 {
			return fmt.Errorf("unknown personality %q %v", p.Domain, p.Flags)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, domain, 0, 0); errno != 0 {
			return fmt.Errorf("personality %s: %w", p.Domain, errno)
		}
	}
	return nil
}

func setScheduler(s *ocipb.LinuxScheduler) error {
	policy, ok := schedulers[s.Policy]
	if !ok {
		return fmt.Errorf("unknown scheduling policy %q", s.Policy)
	}
	attr := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, name := range s.Flags {
		flag, ok := schedulerFlags[name]
		if !ok {
			return fmt.Errorf("unknown scheduling flag %q", name)
		}
		attr.Flags |= flag
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("set scheduling policy %s: %w", s.Policy, err)
	}
	return nil
}
