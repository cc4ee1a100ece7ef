package cgroup

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// eventsFile counts what memory limits did to a group and all below it, also to
// groups below it that are gone; the kernel tells inotify(7) when it changes.
const eventsFile = "memory.events"

// OOMKills returns how many processes of the group, or of one below it, the
// kernel has killed since Create because there was no memory left: for the
// group's own limit, one further up or down, or the machine. The kernel counts
// before it kills, so a process that has been collected is in the number. Without
// the memory controller the error is os.ErrNotExist.
//
// After Destroy the error is os.ErrClosed.
func (g *Group) OOMKills() (uint64, error) {
	var n uint64
	err := g.dir.Use(func(dir int) (err error) {
		n, err = oomKills(dir)
		return err
	})
	return n - min(n, g.oomBefore), err
}

// OOMFile is the path of the file that inotify(7) reports as modified soon after
// a kill that OOMKills counts.
func (g *Group) OOMFile() string { return g.path + "/" + eventsFile }

func oomKills(dir int) (uint64, error) {
	fd, err := unix.Openat(dir, eventsFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: eventsFile, Err: err}
	}
	defer unix.Close(fd)
	var buf [512]byte // six short lines
	n, err := unix.Pread(fd, buf[:], 0)
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: eventsFile, Err: err}
	}
	for line := range strings.Lines(string(buf[:n])) {
		if number, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s does not count OOM kills", eventsFile)
}
