package taskpid

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is the cgroup of a container on the host, in each hierarchy that is
// mounted: one for cgroup v2, several for v1. The guest enforces a container's limits;
// that of memory stands here too, for who looks a container up by its cgroup, or a
// pod's processes, and asks what it may use. Where a cgroup cannot be made the process stays in the shim's.
type Cgroup struct {
	dirs    []string // one a hierarchy
	missing []string // what is to be made, parents first
}

// NewCgroup plans the cgroup that an OCI spec names (linux.cgroupsPath: a path,
// or systemd's slice:prefix:name) in every hierarchy; Make makes it. It is nil
// when the spec names none.
func NewCgroup(path string) *Cgroup {
	path = cgroupPath(path)
	if path == "" {
		return nil
	}
	c := new(Cgroup)
	for _, top := range hierarchies() {
		dir := top
		for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			dir = filepath.Join(dir, part)
			if _, err := os.Lstat(dir); err != nil {
				c.missing = append(c.missing, dir)
			}
		}
		c.dirs = append(c.dirs, dir)
	}
	return c
}

// Dirs returns the directories that Make makes, parents first. The caller removes
// those that are empty, last first, when the process has ended.
func (c *Cgroup) Dirs() []string {
	if c == nil {
		return nil
	}
	return slices.Clone(c.missing)
}

// Make makes the cgroup where it can be made.
func (c *Cgroup) Make() {
	for _, dir := range c.Dirs() {
		_ = unix.Mkdir(dir, 0o755)
	}
}

// add moves a process there, in the hierarchies that take it.
func (c *Cgroup) add(pid int) {
	if c == nil {
		return
	}
	for _, dir := range c.dirs {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0)
	}
}

// LimitMemory sets the memory limit in bytes, where that can be; what is not a limit
// is left alone.
func (c *Cgroup) LimitMemory(limit int64) {
	if c == nil || limit <= 0 {
		return
	}
	value := strconv.AppendInt(nil, limit, 10)
	for _, dir := range c.dirs {
		for _, file := range []string{"memory.max", "memory.limit_in_bytes"} {
			if path := filepath.Join(dir, file); unix.Access(path, unix.W_OK) == nil {
				_ = os.WriteFile(path, value, 0)
			}
		}
	}
}

// cgroupPath is a spec's cgroupsPath as a path below the top of a hierarchy; empty
// when it names none.
func cgroupPath(s string) string {
	if slice, rest, ok := strings.Cut(s, ":"); ok && !strings.Contains(slice, "/") {
		prefix, name, _ := strings.Cut(rest, ":")
		if name == "" {
			return ""
		}
		if slice == "" {
			slice = "system.slice"
		}
		unit := name
		if !strings.HasSuffix(name, ".slice") {
			unit = prefix + "-" + name + ".scope"
		}
		s = filepath.Join(expandSlice(slice), unit)
	}
	if s = filepath.Clean("/" + s); s == "/" {
		return ""
	}
	return s
}

// expandSlice is where systemd keeps a slice: a-b.slice is below a.slice
// (systemd.slice(5)).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return ""
	}
	var path, prefix string
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		path = filepath.Join(path, prefix+".slice")
		prefix += "-"
	}
	return path
}

// hierarchies returns where cgroup hierarchies are mounted. The cpuset hierarchy
// of v1, whose new groups take no process before they are configured, is left
// out.
func hierarchies() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var tops []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || mount[3] != "/" || !strings.HasPrefix(mount[4], "/sys/fs/cgroup") {
			continue
		}
		cpuset := super[0] == "cgroup" && slices.Contains(strings.Split(super[2], ","), "cpuset")
		if (super[0] == "cgroup" || super[0] == "cgroup2") && !cpuset {
			tops = append(tops, mount[4])
		}
	}
	return tops
}
