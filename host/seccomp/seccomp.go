// Package seccomp compiles the seccomp profile of an OCI container to the
// programs that the guest's agent loads.
//
//	compiled, err := seccomp.Compile(spec.Linux.Seccomp)
//
// It is a pure function: no file, no system call, no C. It neither loads a
// program (kata/guest/container/seccomp does, in the guest) nor chooses a profile
// (containerd does). Host and guest are both x86_64.
//
// # What a profile means
//
// What it means under runc, which hands it to libseccomp; where the runtime
// specification is silent, those two are followed, so that a profile allows
// and denies the same in a pod as in a container beside it:
//
//   - A profile always covers x86_64; architectures adds x86 and x32. A call of
//     another architecture kills its thread. Architectures that are no x86 are
//     accepted and have no effect.
//   - The conditions of a rule must all hold. But when two of them are about
//     the same argument, each becomes a rule of its own (runc#2735).
//   - Several rules for a call are alternatives, and a call that none matches
//     gets the default action. A rule whose action is the default action is
//     left out. A rule without conditions prevails over those with conditions,
//     the first such rule over the later ones. Among rules with conditions and
//     different actions, where libseccomp's order is its own, the first in the
//     profile prevails.
//   - Arguments have 64 bits on x86_64, and 32 on x86 and x32, whose upper
//     halves, and those of the values in the profile, do not count.
//   - On x86, a rule for a socket or System V call is also one for the same
//     call through socketcall(2) or ipc(2). These hide the arguments in memory,
//     so a condition on the first is dropped there.
//   - A call with a higher number than any in the profile is newer than the
//     profile; it gets ENOSYS, so that programs fall back to what they did
//     before it existed, unless the default action is to allow, to log or to
//     trace (runc#2750). This holds for x86_64 also when architectures does not
//     list it (runc#4219).
//
// Other than runc, an errnoRet that cannot be told to the kernel and one on an
// action that returns none are errors, as the specification asks. Without
// flags none is set.
package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Compiled is a profile in the form that seccomp(2) takes.
type Compiled struct {
	// Filters are the programs, to be loaded in this order: arrays of struct
	// sock_filter in the byte order of the host, each at most BPF_MAXINSNS
	// long. There is none for a profile without anything in it, which means
	// no restriction.
	Filters [][]byte
	// Flags are those of seccomp(2): SECCOMP_FILTER_FLAG_LOG, SPEC_ALLOW and
	// WAIT_KILLABLE_RECV as the profile says, NEW_LISTENER when a rule
	// notifies. TSYNC is never among them: after execve the thread that
	// loaded the programs is the only one.
	Flags uint32
	// Ignored says, for the log, which parts of the profile have no effect:
	// names that no kernel we know of has, foreign architectures, rules that
	// another prevails over.
	Ignored []string
}

// Compile translates a profile. Errors name the field and its value; a nil
// profile is compiled to nothing.
func Compile(profile *specs.LinuxSeccomp) (*Compiled, error) {
	if profile == nil || profile.DefaultAction == "" && len(profile.Syscalls) == 0 {
		return &Compiled{}, nil // runc: disabled
	}
	p, err := parse(profile)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	program := p.program()
	if len(program) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("seccomp profile: needs %d instructions, and the kernel takes %d; it has too many conditions",
			len(program), unix.BPF_MAXINSNS)
	}
	return &Compiled{Filters: [][]byte{encode(program)}, Flags: p.flags, Ignored: p.ignored}, nil
}

// newerThanProfile is what calls that the profile cannot know get.
const newerThanProfile = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// foreign is what a call of an architecture that the profile does not cover
// gets: libseccomp's default for it.
const foreign = unix.SECCOMP_RET_KILL_THREAD

// policy is a profile that has been checked, in terms of the kernel.
type policy struct {
	fallback uint32 // the default action
	abis     [3]bool
	rules    []rule
	flags    uint32
	ignored  []string        // in the order of the profile, each once
	noted    map[string]bool // what is in ignored
}

// rule decides about one call.
type rule struct {
	name       string
	action     uint32 // SECCOMP_RET_*
	conditions []condition
}

// condition compares an argument, after masking it.
type condition struct {
	argument int // 0 to 5
	operator operator
	mask     uint64
	value    uint64
}

// answersNewer says whether calls that the profile cannot know are answered
// with ENOSYS.
func (p *policy) answersNewer() bool {
	switch p.fallback & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		// A tracer knows calls that the profile does not.
		return false
	}
	return true
}

func (p *policy) ignore(format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	if !p.noted[note] {
		p.noted[note] = true
		p.ignored = append(p.ignored, note)
	}
}
