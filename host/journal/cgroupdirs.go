package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupDirs are directories of cgroups, of any version and hierarchy, that hold
// a container's process on the host and that others may come to use as well: the
// container's own cgroup and the parents that were made for it.
type CgroupDirs struct {
	// Paths have parents first.
	Paths []string `json:"paths"`
}

func (CgroupDirs) kind() string { return "cgroup_dirs" }

func (c CgroupDirs) String() string {
	if len(c.Paths) == 0 {
		return "no cgroup"
	}
	return fmt.Sprintf("cgroup %s and %d more", c.Paths[len(c.Paths)-1], len(c.Paths)-1)
}

// leaving is how long a process that is about to end is waited for.
const leaving = 3 * time.Second

// release removes those that are empty. One that somebody is in stays with them; a
// process that stands for one of the sandbox's is no such: it ends with the shim, but
// the kernel takes a moment for it.
func (c CgroupDirs) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaving)
	defer cancel()
	for _, dir := range slices.Backward(c.Paths) {
		for unix.Rmdir(dir) == unix.EBUSY && standIns(dir) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", dir, context.Cause(ctx))
			case <-time.After(5 * time.Millisecond): // cgroup v1 tells nobody
			}
		}
	}
	return nil
}

// standIns tells whether all processes in a cgroup are such as package taskpid
// starts, by their names.
func standIns(dir string) bool {
	list, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	for _, pid := range strings.Fields(string(list)) {
		name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err == nil && !strings.HasPrefix(string(name), "kata:") {
			return false
		}
	}
	return true
}
