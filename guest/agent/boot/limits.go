package boot

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/agent/log"
	"kata/lib/fmt"
)

// The kernel derives limits from the size of its memory, and a guest has little:
// with 2 GiB a user may have 7,946 processes. These are what a host of 8 GiB or
// more has at least. Limits that keep memory itself from running out, those of
// TCP and of connection tracking, stay what the kernel makes them.
const (
	leastThreads   = 1 << 16 // kernel.threads-max
	leastProcesses = 1 << 15 // RLIMIT_NPROC, RLIMIT_SIGPENDING; of namespaces of a kind
	leastWatches   = 1 << 17 // of inotify and fanotify, for a user
	leastFiles     = 1 << 20 // fs.file-max: as many as one process may have
	maxPIDs        = 1 << 22 // PID_MAX_LIMIT, include/linux/threads.h; what systemd sets
)

// raiseLimits raises what containers get whose spec says nothing else. Limits
// that are higher already stay.
func raiseLimits(log *log.Logger) {
	for _, l := range [...]struct {
		path  string // below /proc/sys
		least int
	}{
		{"kernel/threads-max", leastThreads},
		{"kernel/pid_max", maxPIDs},
		{"fs/file-max", leastFiles},
		{"fs/inotify/max_user_watches", leastWatches},
		{"fs/fanotify/max_user_marks", leastWatches},
		{"user/max_cgroup_namespaces", leastProcesses},
		{"user/max_ipc_namespaces", leastProcesses},
		{"user/max_mnt_namespaces", leastProcesses},
		{"user/max_net_namespaces", leastProcesses},
		{"user/max_pid_namespaces", leastProcesses},
		{"user/max_time_namespaces", leastProcesses},
		{"user/max_user_namespaces", leastProcesses},
		{"user/max_uts_namespaces", leastProcesses},
	} {
		if err := raise("/proc/sys/"+l.path, l.least); err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Warn("limit not raised", "limit", l.path, "error", err)
		}
	}
	for _, number := range [...]int{unix.RLIMIT_NPROC, unix.RLIMIT_SIGPENDING} {
		if err := raiseRlimit(number); err != nil {
			log.Warn("limit not raised", "limit", number, "error", err)
		}
	}
}

// raise sets a kernel parameter that is a number to least, unless it is that or
// more.
func raise(path string, least int) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// fs.file-max may be more than an int holds.
	if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil || n >= uint64(least) {
		return err
	}
	return write(path, strconv.Itoa(least))
}

// raiseRlimit raises a limit of this process, which all others inherit.
func raiseRlimit(number int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(number, &limit); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	limit.Cur, limit.Max = max(limit.Cur, leastProcesses), max(limit.Max, leastProcesses)
	if err := unix.Setrlimit(number, &limit); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	return nil
}
