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
// mounted: one for cgroup v2, several for v1. It has no limits: the guest has
// them. It is there for who looks a container up by its cgroup, or a pod's
// processes. Where a cgroup cannot be made the process stays in the shim's.
type Cgroup struct {
	dirs []string // one a hierarchy
	made []string // what MakeCgroup made, parents first
}

// MakeCgroup makes the cgroup that an OCI spec names (linux.cgroupsPath: a path,
// or systemd's slice:prefix:name) in every hierarchy where it can be made, and
// returns nil where there is none.
func MakeCgroup(path string) *Cgroup {
	path = cgroupPath(path)
	if path == "" {
		return nil
	}
	c := new(Cgroup)
	for _, top := range hierarchies() {
		if made, ok := makeBelow(top, path); ok {
			c.dirs = append(c.dirs, filepath.Join(top, path))
			c.made = append(c.made, made...)
		}
	}
	if len(c.dirs) == 0 {
		return nil
	}
	return c
}

// Dirs returns the directories that Remove removes.
func (c *Cgroup) Dirs() []string {
	if c == nil {
		return nil
	}
	return slices.Clone(c.made)
}

// Remove removes what MakeCgroup made, as far as nobody else is in it. The
// processes must have ended.
func (c *Cgroup) Remove() {
	if c == nil {
		return
	}
	for _, dir := range slices.Backward(c.made) {
		_ = unix.Rmdir(dir)
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

// makeBelow makes path below top with its parents, and returns what was not
// there before.
func makeBelow(top, path string) (made []string, ok bool) {
	dir := top
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		dir = filepath.Join(dir, part)
		switch err := unix.Mkdir(dir, 0o755); err {
		case nil:
			made = append(made, dir)
		case unix.EEXIST:
		default:
			for _, d := range slices.Backward(made) {
				_ = unix.Rmdir(d)
			}
			return nil, false
		}
	}
	return made, true
}
