package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/lib/thread"
)

// Confinement is what a child is held by that runs a stranger's code: the VMM.
// It costs nothing, and the child gets everything that it needs as descriptors.
//
//   - no_new_privs: no program it executes gains anything (prctl(2)).
//   - No capability in any set, the bounding set included: root by number only.
//     It cannot even open a file against the file's mode.
//   - No core dumps: RLIMIT_CORE is 0, and as that does not bind a core_pattern
//     that is a pipe, coredump_filter is 0 as well. The process stays dumpable:
//     ptrace and process_vm_readv by this process work.
type Confinement struct {
	// OOMScoreAdj is how much sooner than others the kernel kills it when
	// memory is short (proc(5)): -1000 to 1000. It replaces this process's own
	// value, which is near -1000. Where this process may not go so low for want
	// of CAP_SYS_RESOURCE the child gets 0.
	OOMScoreAdj int
}

// LaunchConfined is Launch of a child that is confined. What has to be set from
// outside is set before it returns, a moment after the program has started.
func (s *Spawner) LaunchConfined(cmd *exec.Cmd, c Confinement) (*Child, error) {
	s.confine.Do(func() {
		// Not the first thread, whose privileges are what /proc shows as the
		// process's.
		s.threads.Go(func() { thread.Spend(func() { s.loop(s.confined, dropPrivileges) }) })
	})
	start := func(cmd *exec.Cmd) error { return s.start(cmd, s.confined) }
	return s.launch(cmd, start, c.apply)
}

// dropPrivileges takes from this thread what its children must not have. All of
// it belongs to the thread, and children inherit it. The thread keeps its own
// capabilities: root's are computed anew by execve, from the bounding set.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range sets {
		sets[i].Inheritable = 0 // and with it the ambient set
	}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	for capability := uintptr(0); ; capability++ {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if err != nil {
			return nil // past the last one that this kernel has
		}
		if held == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", capability, err)
		}
	}
}

// apply sets the limits of the child. One that has ended by now needs none, and
// how it ended is the better error.
func (c Confinement) apply(pid int) error {
	if err := c.limit(pid); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func (c Confinement) limit(pid int) error {
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("switch off its core dumps: %w", err)
	}
	// Some kernels are built without core dumps.
	if err := writeProc(pid, "coredump_filter", "0"); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("switch off its core dumps: %w", err)
	}
	return c.adjustOOMScore(pid)
}

// adjustOOMScore sets the score. A refusal means that the child inherited a
// higher one and that this process may not go so low: then it gets 0, or else
// keeps what it has.
func (c Confinement) adjustOOMScore(pid int) error {
	const name = "oom_score_adj"
	err := writeProc(pid, name, strconv.Itoa(c.OOMScoreAdj))
	if os.IsPermission(err) && c.OOMScoreAdj < 0 {
		err = writeProc(pid, name, "0")
	}
	if err != nil && !os.IsPermission(err) {
		return fmt.Errorf("set its %s to %d: %w", name, c.OOMScoreAdj, err)
	}
	return nil
}

func writeProc(pid int, name, value string) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), []byte(value), 0)
}
