package ocispec

import (
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/capability"
	"kata/guest/container/cpulist"
	"kata/guest/container/plan"
)

// ParseProcess is Parse for a process alone, which an exec is. Names are of its
// user, where the spec has numbers.
func ParseProcess(p *ocipb.Process, names plan.Names) (process plan.Process, err error) {
	if err := checkProcess(p); err != nil {
		return process, err
	}
	process = plan.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, Terminal: p.Terminal, Names: names, NoNewPrivileges: p.NoNewPrivileges,
		Rows: uint16(p.ConsoleSize.GetHeight()), Columns: uint16(p.ConsoleSize.GetWidth()),
	}
	if !p.OOMScoreAdjUnset { // else 0, not what the agent has for itself
		process.OOMScoreAdj = int(p.OOMScoreAdj)
	}
	if process.User, err = parseUser(p.User); err != nil {
		return process, err
	}
	process.Capabilities, process.Unknown = parseCapabilities(p.Capabilities)
	if process.Rlimits, err = parseRlimits(p.Rlimits); err != nil {
		return process, err
	}
	if p.Scheduler != nil {
		if process.Scheduler, err = parseScheduler(p.Scheduler); err != nil {
			return process, errorf("process.scheduler: %v", err)
		}
	}
	if p.IOPriority != nil {
		if process.IOPriority, err = parseIOPriority(p.IOPriority); err != nil {
			return process, errorf("process.ioPriority: %v", err)
		}
	}
	affinity := p.ExecCPUAffinity
	if process.Initial, err = parseAffinity(affinity.GetInitial()); err != nil {
		return process, err
	}
	if process.Final, err = parseAffinity(affinity.GetFinal()); err != nil {
		return process, err
	}
	return process, nil
}

func parseAffinity(list string) (*cpulist.Set, error) {
	if list == "" {
		return nil, nil
	}
	set, err := cpulist.Parse(list)
	if err != nil {
		return nil, errorf("process.execCPUAffinity: %v", err)
	}
	return set, nil
}

func checkProcess(p *ocipb.Process) error {
	if p == nil {
		return errorf("process is missing")
	}
	if len(p.Args) == 0 {
		return errorf("process.args is empty")
	}
	for _, arg := range p.Args {
		if hasZero(arg) {
			return errorf("process.args has %q, which holds a zero byte", arg)
		}
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return errorf("process.cwd %q is not absolute", p.Cwd)
	}
	if hasZero(p.Cwd) {
		return errorf("process.cwd %q holds a zero byte", p.Cwd)
	}
	for _, pair := range p.Env {
		if strings.IndexByte(pair, '=') < 1 || hasZero(pair) {
			return errorf("process.env %q is not a variable with its value", pair)
		}
	}
	if score := p.OOMScoreAdj; !p.OOMScoreAdjUnset && (score < -1000 || score > 1000) {
		return errorf("process.oomScoreAdj %d is not between -1000 and 1000", score)
	}
	const maxSize = 1<<16 - 1
	if size := p.ConsoleSize; size.GetHeight() > maxSize || size.GetWidth() > maxSize {
		return errorf("process.consoleSize %d by %d is not possible", size.Width, size.Height)
	}
	return nil
}

// noID is what system calls take for "do not change".
const noID = 1<<32 - 1

// defaultUmask is runc's.
const defaultUmask = 0o022

func parseUser(u *ocipb.User) (user plan.User, err error) {
	user.Umask = defaultUmask
	if u == nil {
		return user, nil
	}
	if u.UID == noID || u.GID == noID {
		return user, errorf("process.user %d:%d is not possible", u.UID, u.GID)
	}
	const maxGroups = 65536 // NGROUPS_MAX
	if n := len(u.AdditionalGids); n > maxGroups {
		return user, errorf("process.user.additionalGids has %d groups, more than %d", n, maxGroups)
	}
	for _, gid := range u.AdditionalGids {
		if gid == noID {
			return user, errorf("process.user.additionalGids %d is not possible", gid)
		}
	}
	if u.Umask != nil {
		if user.Umask = *u.Umask; user.Umask > 0o777 {
			return user, errorf("process.user.umask 0%s has more than permission bits", strconv.FormatUint(uint64(user.Umask), 8))
		}
	}
	user.UID, user.GID, user.Groups = u.UID, u.GID, u.AdditionalGids
	return user, nil
}

// parseCapabilities leaves names that are not known out, as runc does, and returns
// them. An ambient capability that is not both permitted and inheritable is left
// out, since the kernel would refuse it.
func parseCapabilities(c *ocipb.LinuxCapabilities) (sets capability.Sets, unknown []string) {
	if c == nil {
		return sets, nil
	}
	for _, s := range [...]struct {
		set   *capability.Set
		names []string
	}{
		{&sets.Bounding, c.Bounding}, {&sets.Effective, c.Effective}, {&sets.Inheritable, c.Inheritable},
		{&sets.Permitted, c.Permitted}, {&sets.Ambient, c.Ambient},
	} {
		for _, name := range s.names {
			number, ok := capability.Parse(name)
			if !ok {
				unknown = append(unknown, name)
				continue
			}
			*s.set |= 1 << number
		}
	}
	sets.Ambient &= sets.Permitted & sets.Inheritable
	return sets, unknown
}

// rlimits are the resources of setrlimit(2).
var rlimits = table{
	{"RLIMIT_AS", unix.RLIMIT_AS}, {"RLIMIT_CORE", unix.RLIMIT_CORE}, {"RLIMIT_CPU", unix.RLIMIT_CPU},
	{"RLIMIT_DATA", unix.RLIMIT_DATA}, {"RLIMIT_FSIZE", unix.RLIMIT_FSIZE}, {"RLIMIT_LOCKS", unix.RLIMIT_LOCKS},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK}, {"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", unix.RLIMIT_NICE},
	{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE}, {"RLIMIT_NPROC", unix.RLIMIT_NPROC}, {"RLIMIT_RSS", unix.RLIMIT_RSS},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO}, {"RLIMIT_RTTIME", unix.RLIMIT_RTTIME},
	{"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING}, {"RLIMIT_STACK", unix.RLIMIT_STACK},
}

func parseRlimits(limits []*ocipb.POSIXRlimit) (all []plan.Rlimit, err error) {
	for _, limit := range limits {
		if limit == nil {
			return nil, errorf("process.rlimits has an empty entry")
		}
		number, ok := rlimits.find(limit.Type)
		if !ok {
			return nil, errorf("process.rlimits type %q is unknown", limit.Type)
		}
		if limit.Soft > limit.Hard {
			return nil, errorf("process.rlimits %s: soft limit %d exceeds the hard limit %d", limit.Type, limit.Soft, limit.Hard)
		}
		for _, other := range all {
			if other.Resource == int(number) {
				return nil, errorf("process.rlimits %s is there twice", limit.Type)
			}
		}
		all = append(all, plan.Rlimit{Name: limit.Type, Resource: int(number), Soft: limit.Soft, Hard: limit.Hard})
	}
	return all, nil
}
