package journal

import (
	"context"
	"fmt"
	"slices"

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

// release removes those that are empty. One that somebody is in stays with them.
func (c CgroupDirs) release(context.Context) error {
	for _, dir := range slices.Backward(c.Paths) {
		_ = unix.Rmdir(dir) // fails for anything but an empty directory
	}
	return nil
}
