package stage

import (
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/lib/fmt"
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

// SetPriorities sets scheduler and i/o priority of the thread pid, 0 for the
// calling one.
func SetPriorities(pid int, p *ocipb.Process) error {
	if s := p.Scheduler; s != nil {
		attr, err := schedAttr(s)
		if err != nil {
			return fmt.Errorf("process.scheduler: %w", err)
		}
		if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
			return fmt.Errorf("set scheduling policy %s: %w", s.Policy, err)
		}
	}
	if p := p.IOPriority; p != nil {
		if err := CheckIOPriority(p); err != nil {
			return fmt.Errorf("process.ioPriority: %w", err)
		}
		const classShift, whoProcess = 13, 1
		value := uintptr(ioClasses[p.Class]<<classShift | int(p.Priority))
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), value); errno != 0 {
			return fmt.Errorf("set i/o priority %s %d: %w", p.Class, p.Priority, errno)
		}
	}
	return nil
}

// CheckIOPriority says what is wrong with an i/o priority.
func CheckIOPriority(p *ocipb.LinuxIOPriority) error {
	if _, ok := ioClasses[p.Class]; !ok {
		return fmt.Errorf("class %q is unknown", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("priority %d is not between 0 and 7", p.Priority)
	}
	return nil
}

// setPersonality sets the execution domain.
func setPersonality(p *ocipb.LinuxPersonality) error {
	if p == nil {
		return nil
	}
	if err := CheckPersonality(p); err != nil {
		return fmt.Errorf("linux.personality: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, personalities[p.Domain], 0, 0); errno != 0 {
		return fmt.Errorf("set personality %s: %w", p.Domain, errno)
	}
	return nil
}

// CheckPersonality says what is wrong with an execution domain.
func CheckPersonality(p *ocipb.LinuxPersonality) error {
	if _, ok := personalities[p.Domain]; !ok {
		return fmt.Errorf("domain %q is unknown", p.Domain)
	}
	if len(p.Flags) > 0 {
		return fmt.Errorf("flag %q is unknown", p.Flags[0])
	}
	return nil
}

// CheckScheduler says what is wrong with a scheduling policy, if the kernel need
// not be asked.
func CheckScheduler(s *ocipb.LinuxScheduler) error {
	_, err := schedAttr(s)
	return err
}

func schedAttr(s *ocipb.LinuxScheduler) (unix.SchedAttr, error) {
	policy, ok := schedulers[s.Policy]
	if !ok {
		return unix.SchedAttr{}, fmt.Errorf("policy %q is unknown", s.Policy)
	}
	if s.Nice < -20 || s.Nice > 19 {
		return unix.SchedAttr{}, fmt.Errorf("nice %d is not between -20 and 19", s.Nice)
	}
	realtime := policy == unix.SCHED_FIFO || policy == unix.SCHED_RR
	if s.Priority != 0 && (!realtime || s.Priority < 1 || s.Priority > 99) {
		return unix.SchedAttr{}, fmt.Errorf("priority %d is not possible with %s", s.Priority, s.Policy)
	}
	if policy != unix.SCHED_DEADLINE && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
		return unix.SchedAttr{}, fmt.Errorf("runtime, deadline and period are for SCHED_DEADLINE, not %s", s.Policy)
	}
	attr := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, name := range s.Flags {
		flag, ok := schedulerFlags[name]
		if !ok {
			return unix.SchedAttr{}, fmt.Errorf("flag %q is unknown", name)
		}
		attr.Flags |= flag
	}
	return attr, nil
}
