package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// model says what a profile means for one call by reading its rules from the
// first to the last: without tables of numbers, and written from the
// documentation of the package, not from its code.
type model struct {
	profile    *specs.LinuxSeccomp
	fallback   uint32
	permissive bool
	rules      [3][]modelRule // by abi
	newest     [3]int64       // -1 when the profile names none
}

// modelRule is a rule for one number.
type modelRule struct {
	nr     uint32
	action uint32
	args   []specs.LinuxSeccompArg
}

func newModel(profile *specs.LinuxSeccomp) *model {
	m := &model{profile: profile, fallback: modelAction(profile.DefaultAction, profile.DefaultErrnoRet), newest: [3]int64{-1, -1, -1}}
	m.permissive = slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, profile.DefaultAction)
	for _, s := range profile.Syscalls {
		action := modelAction(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			for where := range m.rules {
				for _, r := range modelRules(name, abi(where), s.Args) {
					m.newest[where] = max(m.newest[where], int64(r.nr))
					r.action = action
					m.rules[where] = append(m.rules[where], r)
				}
			}
		}
	}
	return m
}

func (m *model) run(c call) uint32 {
	where, ok := modelABI(m.profile, c)
	if !ok {
		return unix.SECCOMP_RET_KILL_THREAD
	}
	newest := m.newest[where]
	if newest >= 0 && int64(c.nr) > newest && !m.permissive && (c.nr != ^uint32(0) || where != x8664) {
		return errno(unix.ENOSYS)
	}
	conditional, decided := m.fallback, false
	for _, r := range m.rules[where] {
		if r.nr != c.nr || r.action == m.fallback {
			continue
		}
		holds, always := modelArgs(r.args, where, c)
		if always {
			return r.action
		}
		if holds && !decided {
			conditional, decided = r.action, true
		}
	}
	return conditional
}

func modelABI(profile *specs.LinuxSeccomp, c call) (abi, bool) {
	has := func(a specs.Arch) bool { return slices.Contains(profile.Architectures, a) }
	switch {
	case c.arch == unix.AUDIT_ARCH_I386:
		return i386, has(specs.ArchX86)
	case c.arch != unix.AUDIT_ARCH_X86_64:
		return 0, false
	case c.nr < x32Bit:
		return x8664, true
	case has(specs.ArchX32):
		return x32, true
	}
	return x8664, c.nr == ^uint32(0)
}

// modelRules returns the rules that an entry of the profile is under one of
// its names.
func modelRules(name string, where abi, args []specs.LinuxSeccompArg) (rules []modelRule) {
	alternatives := [][]specs.LinuxSeccompArg{args}
	indices := make(map[uint]bool)
	for _, arg := range args {
		indices[arg.Index] = true
	}
	if len(indices) < len(args) {
		alternatives = nil
		for _, arg := range args {
			alternatives = append(alternatives, []specs.LinuxSeccompArg{arg})
		}
	}
	nr, direct := number(name, where)
	mux, sub, indirect := multiplexed(name)
	for _, conditions := range alternatives {
		if direct {
			rules = append(rules, modelRule{nr: nr, args: conditions})
		}
		if !indirect || where != i386 {
			continue
		}
		with := []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: sub}}
		for _, arg := range conditions {
			if arg.Index != 0 {
				with = append(with, arg)
			}
		}
		rules = append(rules, modelRule{nr: mux, args: with})
	}
	return rules
}

// modelArgs says whether conditions hold for a call, and whether they hold for
// any call.
func modelArgs(args []specs.LinuxSeccompArg, where abi, c call) (holds, always bool) {
	holds, always = true, true
	for _, arg := range args {
		width := ^uint64(0)
		if where != x8664 {
			width = 0xffffffff
		}
		got, value, two := c.args[arg.Index]&width, arg.Value&width, arg.ValueTwo&width
		holds = holds && modelCompare(arg.Op, got, value, two)
		always = always && arg.Op == specs.OpMaskedEqual && value == 0
	}
	return holds, always
}

func modelCompare(op specs.LinuxSeccompOperator, got, value, two uint64) bool {
	switch op {
	case specs.OpEqualTo:
		return got == value
	case specs.OpNotEqual:
		return got != value
	case specs.OpLessThan:
		return got < value
	case specs.OpLessEqual:
		return got <= value
	case specs.OpGreaterThan:
		return got > value
	case specs.OpGreaterEqual:
		return got >= value
	}
	return got&value == two&value
}

func modelAction(action specs.LinuxSeccompAction, errno *uint) uint32 {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = uint32(*errno)
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill:        unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
		specs.ActTrap:        unix.SECCOMP_RET_TRAP,
		specs.ActErrno:       unix.SECCOMP_RET_ERRNO | data,
		specs.ActTrace:       unix.SECCOMP_RET_TRACE | data,
		specs.ActAllow:       unix.SECCOMP_RET_ALLOW,
		specs.ActLog:         unix.SECCOMP_RET_LOG,
		specs.ActNotify:      unix.SECCOMP_RET_USER_NOTIF,
	}[action]
}
