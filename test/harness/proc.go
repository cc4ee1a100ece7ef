package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process as found in /proc.
type Process struct {
	PID  int
	Args []string
	// started is field 22 of /proc/PID/stat, the clock tick of its start: with
	// the PID it names one process for ever.
	started string
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// Program is the base name of the executable as it was called.
func (p Process) Program() string {
	if len(p.Args) == 0 {
		return ""
	}
	return filepath.Base(p.Args[0])
}

// Kill sends SIGKILL, if the process is still the one that was found. One that
// has gone is no error.
func (p Process) Kill() error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		if !p.Alive() { // before Linux 6.9 EINVAL while it is still a process group
			return nil
		}
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// Looked at after the pidfd is open: it pins the process.
	if now, ok := readProcess(p.PID); !ok || now.started != p.started {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// Alive says whether the process still runs; a zombie does not.
func (p Process) Alive() bool {
	now, ok := readProcess(p.PID)
	return ok && now.started == p.started
}

// PSS is the process's proportional set size in bytes: its own memory plus its
// share of what it shares.
func (p Process) PSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.Program(), err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read the memory of %s: no Pss in smaps_rollup", p.Program())
}

// readProcess reads one process; ok is false when there is none, or a zombie
// or a kernel thread.
func readProcess(pid int) (p Process, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, false
	}
	// The program's name, in parentheses, may hold anything (proc(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return Process{}, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(cmdline) == 0 {
		return Process{}, false
	}
	args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	return Process{PID: pid, Args: args, started: fields[19]}, true
}

// findProcesses returns those whose command line fulfils match.
func findProcesses(match func(Process) bool) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := readProcess(pid); ok && match(p) {
			found = append(found, p)
		}
	}
	return found
}

// processes returns what runs on behalf of the node, containerd excepted.
func (n *Node) processes() []Process {
	return findProcesses(func(p Process) bool {
		if n.daemon != nil && p.PID == n.daemon.Process.Pid {
			return false
		}
		return hasToken(strings.Join(p.Args, " "), n.mark())
	})
}

// Processes returns the processes of one container: shim, VMM, file server,
// and what they started that carries its id, without ctr.
func (n *Node) Processes(id string) []Process {
	return findProcesses(func(p Process) bool {
		line := strings.Join(p.Args, " ") + " "
		return p.Program() != filepath.Base(n.opts.Ctr) && hasToken(line, id)
	})
}

// AwaitProcess waits until the container has a process whose program's name
// starts with one of the prefixes, and returns it. containerd's calls of the
// shim (start, delete), which come and go, are not the shim.
func (n *Node) AwaitProcess(ctx context.Context, id string, prefixes ...string) (Process, error) {
	var found Process
	what := fmt.Sprintf("a %s process of %s", strings.Join(prefixes, " or "), id)
	err := Await(ctx, what, func() (bool, error) {
		for _, p := range n.Processes(id) {
			for _, prefix := range prefixes {
				if strings.HasPrefix(p.Program(), prefix) && !p.isShimCall() {
					found = p
					return true, nil
				}
			}
		}
		return false, nil
	})
	return found, err
}

// isShimCall tells a call that containerd awaits from the server that stays.
func (p Process) isShimCall() bool {
	last := p.Args[len(p.Args)-1]
	return last == "start" || last == "delete"
}

// hasToken says whether the id stands in text as a whole, not as the start of
// a longer id.
func hasToken(text, id string) bool {
	for rest := text; ; {
		i := strings.Index(rest, id)
		if i < 0 {
			return false
		}
		rest = rest[i+len(id):]
		if rest == "" || !isIDByte(rest[0]) {
			return true
		}
	}
}

func isIDByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

// Nsenter runs a command in the mount namespace of a process.
func Nsenter(ctx context.Context, pid int, args ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-m", "-t", strconv.Itoa(pid), "--"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
