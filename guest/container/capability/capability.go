// Package capability names Linux capabilities and gives a thread the five sets
// of capabilities(7) that an OCI process asks for.
//
// The change is made in two steps, because what lies between them needs both
// the permissions of the container's process and powers that it will not have:
// [Sets.LimitBounding] and [Sets.Adopt] before, [Sets.Finish] last. All of it
// concerns the calling thread only, which the caller has locked.
package capability

import (
	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Set is a set of capabilities, bit n being the one with number n.
type Set uint64

// SysResource allows exceeding resource limits (CAP_SYS_RESOURCE).
const SysResource Set = 1 << unix.CAP_SYS_RESOURCE

// names in the order of include/uapi/linux/capability.h.
var names = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// Parse returns the number of a capability given by its CAP_* name.
func Parse(name string) (number int, ok bool) {
	const prefix = "CAP_"
	if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return 0, false
	}
	for i, n := range names {
		if name[len(prefix):] == n {
			return i, true
		}
	}
	return 0, false
}

// Sets are the five sets of a process.
type Sets struct {
	Bounding, Effective, Inheritable, Permitted, Ambient Set
}

// LimitBounding drops every capability from the thread's bounding set that is
// not in s.Bounding. It needs CAP_SETPCAP.
func (s Sets) LimitBounding() error {
	for number := range 64 {
		if s.Bounding&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		if err == unix.EINVAL {
			return nil // beyond the kernel's last capability
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", number, err)
		}
	}
	return nil
}

// Adopt makes s.Effective and more the thread's effective set, so that
// permission checks come out as they will for the process, and keeps the
// permitted set so that Finish is possible.
func (s Sets) Adopt(more Set) error {
	now, err := current()
	if err != nil {
		return err
	}
	return set((s.Effective|more)&now.Permitted, now.Permitted, now.Inheritable)
}

// Finish gives the thread exactly the effective, permitted, inheritable and
// ambient sets of s, as far as it has them itself.
func (s Sets) Finish() error {
	now, err := current()
	if err != nil {
		return err
	}
	permitted := s.Permitted & now.Permitted
	if err := set(s.Effective&permitted, permitted, s.Inheritable&now.Permitted); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for number := range 64 {
		if s.Ambient&now.Permitted&(1<<number) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", number, err)
		}
	}
	return nil
}

// current returns what the thread has, without its bounding and ambient sets.
func current() (Sets, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return Sets{}, fmt.Errorf("capget: %w", err)
	}
	join := func(low, high uint32) Set { return Set(high)<<32 | Set(low) }
	return Sets{
		Effective:   join(data[0].Effective, data[1].Effective),
		Permitted:   join(data[0].Permitted, data[1].Permitted),
		Inheritable: join(data[0].Inheritable, data[1].Inheritable),
	}, nil
}

func set(effective, permitted, inheritable Set) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}
