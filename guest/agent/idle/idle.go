// Package idle gives memory back to the machine while the agent has nothing to
// do: what its heap does not use, and, if asked, the pages of its own program,
// which come back by themselves when they are executed.
//
// The runtime would give back its heap too, but some minutes later. (The agent's own
// also gives back what lies in the allocator's cache: tools/agentruntime.)
//
// Giving back costs four collections of a small heap, milliseconds, so it is not
// done each time a container prints a line: see Config.
package idle

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Config says when and what.
type Config struct {
	// After is how long nothing has to happen.
	After time.Duration
	// Between is the least time between two times that little memory is given
	// back. Much is given back at once.
	Between time.Duration
	// Text includes the program's pages. They are only unmapped, which is safe
	// and cheap where the file is in memory anyway, as in a guest's initramfs.
	Text bool
}

// Idle waits for idleness.
type Idle struct {
	cfg   Config
	timer *time.Timer
	text  []mapping

	uses    atomic.Int64
	touches atomic.Int64 // since the last of them that counted as a use

	mu   sync.Mutex // one trim at a time; guards what follows
	last time.Time
	seen int64 // uses by then
}

// New returns an Idle that has been used just now. Without the list of the
// process's mappings, in /proc, the program's pages stay.
func New(cfg Config) (*Idle, error) {
	i := &Idle{cfg: cfg}
	var err error
	if cfg.Text {
		i.text, err = programText()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer = time.AfterFunc(cfg.After, i.trim)
	return i, err
}

// Used says that something has happened. It is cheap.
func (i *Idle) Used() {
	i.uses.Add(1)
	i.timer.Reset(i.cfg.After)
}

// Touched says that something so small has happened that giving back would cost
// more than it left: a health check now and then costs an idle machine neither a
// collection nor the program's pages, which it would need again the next time.
// What many of them leave is given back after manyTouches.
func (i *Idle) Touched() {
	if i.touches.Add(1)%manyTouches == 0 {
		i.Used()
	}
}

const (
	// manyTouches is as many health checks as there are in two hours; each leaves
	// about a kilobyte.
	manyTouches = 256
	// collections is how many there are after the first.
	collections = 3
	// much is how many uses may leave more than the agent likes to keep. One use
	// takes 64 KiB at most.
	much = 32
)

// trim gives back, or puts it off.
func (i *Idle) trim() {
	i.mu.Lock()
	defer i.mu.Unlock()
	uses := i.uses.Load()
	if wait := i.cfg.Between - time.Since(i.last); wait > 0 && uses-i.seen < much {
		i.timer.Reset(max(wait, i.cfg.After))
		return
	}
	// New threads get stacks in memory that has been given back, not in what was
	// written to before.
	debug.FreeOSMemory()
	shedThreads()
	// A sync.Pool survives one collection, and each makes stacks half as big.
	for range collections {
		debug.FreeOSMemory()
	}
	for _, m := range i.text {
		// A mapping that was there before is still there.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.size, unix.MADV_DONTNEED)
	}
	i.last, i.seen = time.Now(), uses
}

// keptThreads are not ended: the main one and the runtime's monitor.
const keptThreads = 2

// shedThreads ends threads that have nothing to do. The runtime keeps as many as
// were ever in system calls at a time, and each has some five pages of stacks,
// twelve where those are in memory that was used before. A goroutine that ends while
// it is locked to its thread takes that with it; the runtime starts another one when
// there is none left.
func shedThreads() {
	for n := threads(); n > keptThreads; n-- {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
		}()
		<-ended
	}
}

// threads returns the number of the process's threads, 0 if it is unknown: the
// folders in /proc/self/task, as its link count has them.
func threads() int {
	var info unix.Stat_t
	if unix.Stat("/proc/self/task", &info) != nil {
		return 0
	}
	return int(info.Nlink) - 2
}

// mapping is a part of the address space.
type mapping struct{ start, size uintptr }

// programText returns the mappings of files that cannot be written to and have
// not been: the program's code and constants. What was written before it was made
// read-only, as relocations are by a dynamic loader, would be lost.
func programText() ([]mapping, error) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil, fmt.Errorf("find the program's pages: %w", err)
	}
	var found []mapping
	var current mapping
	for line := range strings.Lines(string(smaps)) {
		// start-end perms offset device inode path, then lines with figures
		// (proc(5)).
		f := strings.Fields(line)
		switch {
		case len(f) >= 2 && strings.Contains(f[0], "-"):
			current = mapping{}
			if len(f) >= 6 && strings.HasPrefix(f[5], "/") && !strings.Contains(f[1], "w") && strings.HasSuffix(f[1], "p") {
				current = parseRange(f[0])
			}
		case len(f) >= 2 && f[0] == "Anonymous:" && f[1] == "0" && current.size > 0:
			found = append(found, current)
		}
	}
	return found, nil
}

// parseRange parses "start-end"; what is no range is empty.
func parseRange(text string) mapping {
	from, to, _ := strings.Cut(text, "-")
	start, err := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err != nil || err2 != nil || end < start {
		return mapping{}
	}
	return mapping{uintptr(start), uintptr(end - start)}
}
