package guestspec

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/host/seccomp"
)

// convertSeccomp compiles a profile: the agent loads programs and reads no
// rules. The rules go along, for upstream's agent and for whoever reads the
// request. A profile that restricts nothing gives nil.
func (s *Spec) convertSeccomp(profile *specs.LinuxSeccomp) (*ocipb.LinuxSeccomp, error) {
	compiled, err := seccomp.Compile(profile)
	if err != nil {
		return nil, fmt.Errorf("spec: linux.%w", err)
	}
	if compiled.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
		return nil, fmt.Errorf("spec: linux.seccomp.listenerPath %q: an action is SCMP_ACT_NOTIFY, and the descriptor for it cannot leave the virtual machine",
			profile.ListenerPath)
	}
	for _, note := range compiled.Ignored {
		s.Ignored = append(s.Ignored, "linux.seccomp "+note)
	}
	if profile.ListenerPath != "" {
		s.Ignored = append(s.Ignored, "linux.seccomp.listenerPath "+profile.ListenerPath+": no action is SCMP_ACT_NOTIFY")
	}
	if len(compiled.Filters) == 0 {
		return nil, nil
	}
	out := symbolic(profile)
	out.Filters, out.FilterFlags = compiled.Filters, compiled.Flags
	return out, nil
}

// symbolic is the profile as it was given.
func symbolic(profile *specs.LinuxSeccomp) *ocipb.LinuxSeccomp {
	out := &ocipb.LinuxSeccomp{
		DefaultAction: string(profile.DefaultAction), DefaultErrnoRet: errno(profile.DefaultErrnoRet),
		Architectures: words(profile.Architectures), Flags: words(profile.Flags),
	}
	for _, call := range profile.Syscalls {
		rule := &ocipb.LinuxSyscall{Names: call.Names, Action: string(call.Action), Errnoret: errno(call.ErrnoRet)}
		for _, arg := range call.Args {
			rule.Args = append(rule.Args, &ocipb.LinuxSeccompArg{
				Index: uint64(arg.Index), Value: arg.Value, ValueTwo: arg.ValueTwo, Op: string(arg.Op),
			})
		}
		out.Syscalls = append(out.Syscalls, rule)
	}
	return out
}

// errno has passed the compiler, which knows its bounds.
func errno(n *uint) *uint32 {
	if n == nil {
		return nil
	}
	out := uint32(*n)
	return &out
}

func words[T ~string](in []T) []string {
	var out []string
	for _, w := range in {
		out = append(out, string(w))
	}
	return out
}
