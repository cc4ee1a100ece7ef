package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// parse checks a profile.
func parse(profile *specs.LinuxSeccomp) (*policy, error) {
	p := &policy{noted: make(map[string]bool)}
	var err error
	if p.fallback, err = parseAction("defaultAction", profile.DefaultAction, "defaultErrnoRet", profile.DefaultErrnoRet); err != nil {
		return nil, err
	}
	if p.fallback == unix.SECCOMP_RET_USER_NOTIF {
		return nil, errors.New(`defaultAction "SCMP_ACT_NOTIFY" would stop the container before anybody listens`)
	}
	if err := p.parseArchitectures(profile.Architectures); err != nil {
		return nil, err
	}
	for i := range profile.Syscalls {
		if err := p.parseSyscall(&profile.Syscalls[i]); err != nil {
			return nil, fmt.Errorf("syscalls[%d].%w", i, err)
		}
	}
	if profile.ListenerMetadata != "" && profile.ListenerPath == "" {
		return nil, errors.New("listenerMetadata is set, but listenerPath is empty")
	}
	notifies := slices.ContainsFunc(p.rules, func(r rule) bool { return r.action == unix.SECCOMP_RET_USER_NOTIF })
	if notifies {
		if profile.ListenerPath == "" {
			return nil, errors.New(`listenerPath is empty, but a rule has the action "SCMP_ACT_NOTIFY"`)
		}
		p.flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return p, p.parseFlags(profile.Flags, notifies)
}

func parseAction(field string, action specs.LinuxSeccompAction, errnoField string, errno *uint) (uint32, error) {
	var ret, limit uint32
	switch action {
	case specs.ActKill, specs.ActKillThread:
		ret = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		ret = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		ret = unix.SECCOMP_RET_TRAP
	case specs.ActErrno:
		const maxErrno = 4095 // linux/err.h; the kernel would lower what is above
		ret, limit = unix.SECCOMP_RET_ERRNO, maxErrno
	case specs.ActTrace:
		ret, limit = unix.SECCOMP_RET_TRACE, unix.SECCOMP_RET_DATA
	case specs.ActAllow:
		ret = unix.SECCOMP_RET_ALLOW
	case specs.ActLog:
		ret = unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		ret = unix.SECCOMP_RET_USER_NOTIF
	default:
		return 0, fmt.Errorf("%s %q is unknown", field, action)
	}
	switch {
	case limit == 0 && errno != nil:
		return 0, fmt.Errorf("%s %d: the action %q returns no errno", errnoField, *errno, action)
	case limit == 0:
		return ret, nil
	case errno == nil:
		return ret | uint32(unix.EPERM), nil
	case *errno > uint(limit):
		return 0, fmt.Errorf("%s %d is above %d", errnoField, *errno, limit)
	}
	return ret | uint32(*errno), nil
}

func (p *policy) parseArchitectures(names []specs.Arch) error {
	p.abis[x8664] = true
	for i, name := range names {
		switch name {
		case specs.ArchX86_64:
		case specs.ArchX86:
			p.abis[i386] = true
		case specs.ArchX32:
			p.abis[x32] = true
		case specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL,
			specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE,
			specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64,
			specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
			p.ignore("architecture %s: the guest is x86_64", name)
		default:
			return fmt.Errorf("architectures[%d] %q is unknown", i, name)
		}
	}
	return nil
}

func (p *policy) parseFlags(names []specs.LinuxSeccompFlag, notifies bool) error {
	for i, name := range names {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC": // see Compiled.Flags
		case specs.LinuxSeccompFlagLog:
			p.flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			p.flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notifies {
				return fmt.Errorf(`flags[%d] %q needs a rule with the action "SCMP_ACT_NOTIFY"`, i, name)
			}
			p.flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return fmt.Errorf("flags[%d] %q is unknown", i, name)
		}
	}
	return nil
}

// parseSyscall adds the rules of one entry. Its errors begin with a field of
// the entry.
func (p *policy) parseSyscall(s *specs.LinuxSyscall) error {
	action, err := parseAction("action", s.Action, "errnoRet", s.ErrnoRet)
	if err != nil {
		return err
	}
	alternatives, err := parseArgs(s.Args)
	if err != nil {
		return err
	}
	if len(s.Names) == 0 {
		return errors.New("names is empty")
	}
	for i, name := range s.Names {
		if name == "" {
			return fmt.Errorf(`names[%d] is ""`, i)
		}
		if name == "write" && action == unix.SECCOMP_RET_USER_NOTIF {
			// runc refuses it, too.
			return fmt.Errorf(`names[%d] "write" cannot have the action "SCMP_ACT_NOTIFY": it hands the listener over`, i)
		}
		if !known(name) {
			p.ignore("system call %q: unknown", name)
			continue
		}
		for _, conditions := range alternatives {
			p.rules = append(p.rules, rule{name, action, conditions})
		}
	}
	return nil
}

// parseArgs returns the sets of conditions of which one must hold: one set,
// unless an argument appears twice.
func parseArgs(args []specs.LinuxSeccompArg) ([][]condition, error) {
	var conditions []condition
	var seen [6]bool
	twice := false
	for i, arg := range args {
		if arg.Index >= uint(len(seen)) {
			return nil, fmt.Errorf("args[%d].index %d is above 5", i, arg.Index)
		}
		op, ok := operators[arg.Op]
		if !ok {
			return nil, fmt.Errorf("args[%d].op %q is unknown", i, arg.Op)
		}
		c := condition{argument: int(arg.Index), operator: op, mask: ^uint64(0), value: arg.Value}
		if arg.Op == specs.OpMaskedEqual {
			c.mask, c.value = arg.Value, arg.ValueTwo&arg.Value
		}
		twice = twice || seen[arg.Index]
		seen[arg.Index] = true
		conditions = append(conditions, c)
	}
	if !twice {
		return [][]condition{conditions}, nil
	}
	var alternatives [][]condition
	for i := range conditions {
		alternatives = append(alternatives, conditions[i:i+1])
	}
	return alternatives, nil
}

// operator is a comparison; masking is the condition's.
type operator int

const (
	equal operator = iota
	notEqual
	less
	lessOrEqual
	greater
	greaterOrEqual
)

var operators = map[specs.LinuxSeccompOperator]operator{
	specs.OpEqualTo: equal, specs.OpMaskedEqual: equal, specs.OpNotEqual: notEqual,
	specs.OpLessThan: less, specs.OpLessEqual: lessOrEqual,
	specs.OpGreaterThan: greater, specs.OpGreaterEqual: greaterOrEqual,
}
