package stage

import (
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/seccomp"
	"kata/lib/fmt"
)

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// Rlimit returns the number of a resource limit given by its RLIMIT_* name.
func Rlimit(name string) (number int, ok bool) {
	number, ok = rlimits[name]
	return number, ok
}

// setRlimit sets a limit, which if done the runtime has set.
func setRlimit(limit *ocipb.POSIXRlimit, done bool) error {
	number, ok := rlimits[limit.Type]
	if !ok {
		return fmt.Errorf("unknown resource limit %q", limit.Type)
	}
	if done && number != unix.RLIMIT_NOFILE {
		return nil
	}
	// By package unix, which remembers that RLIMIT_NOFILE is not to be put
	// back on execve.
	err := unix.Setrlimit(number, &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard})
	if err != nil {
		return fmt.Errorf("set %s to %d, %d: %w", limit.Type, limit.Soft, limit.Hard, err)
	}
	return nil
}

// limitsMemory reports whether the stage itself could run out of memory.
func limitsMemory(limits []*ocipb.POSIXRlimit) bool {
	for _, limit := range limits {
		if limit.Type == "RLIMIT_AS" || limit.Type == "RLIMIT_DATA" {
			return true
		}
	}
	return false
}

// loadSeccomp loads the compiled programs of a profile, for the calling thread.
func loadSeccomp(s *ocipb.LinuxSeccomp) error {
	_, err := seccomp.Load(s.GetFilters(), s.GetFilterFlags()) // the runtime allows no listener
	return err
}
