package container

import (
	"path"
	"strconv"
	"strings"

	"kata/api/ocipb"
	"kata/guest/container/cpulist"
	"kata/guest/container/hooks"
	"kata/guest/container/seccomp"
	"kata/guest/container/stage"
	"kata/guest/fault"
)

// maxID is the longest container ID: it becomes the name of a directory.
const maxID = 255

// Validate checks what can be checked of a new container without making
// anything. The error is a *SpecError that names the field and its value.
func Validate(id string, spec *ocipb.Spec) error {
	if err := validateID(id); err != nil {
		return err
	}
	if spec == nil {
		return specErrorf("the spec is missing")
	}
	if err := ValidateProcess(spec.Process); err != nil {
		return err
	}
	if root := spec.Root.GetPath(); !path.IsAbs(root) || path.Clean(root) == "/" {
		return specErrorf("root.path %q is not an absolute path below /", root)
	}
	if err := hooks.Validate(spec.Hooks); err != nil {
		return fault.New(fault.Invalid, err.Error())
	}
	if err := validateMounts(spec); err != nil {
		return err
	}
	return validateLinux(spec)
}

func validateID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > maxID {
		return specErrorf("container ID %q is empty, too long or a dot", id)
	}
	for _, r := range id {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-+:", r)
		if !ok {
			return specErrorf("container ID %q holds %q", id, r)
		}
	}
	return nil
}

// ValidateProcess is Validate for a process alone, which an exec is.
func ValidateProcess(p *ocipb.Process) error {
	if p == nil {
		return specErrorf("process is missing")
	}
	if len(p.Args) == 0 {
		return specErrorf("process.args is empty")
	}
	for _, arg := range p.Args {
		if strings.IndexByte(arg, 0) >= 0 {
			return specErrorf("process.args has %q, which holds a zero byte", arg)
		}
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return specErrorf("process.cwd %q is not absolute", p.Cwd)
	}
	if strings.IndexByte(p.Cwd, 0) >= 0 {
		return specErrorf("process.cwd %q holds a zero byte", p.Cwd)
	}
	for _, pair := range p.Env {
		if strings.IndexByte(pair, '=') < 1 || strings.IndexByte(pair, 0) >= 0 {
			return specErrorf("process.env %q is not a variable with its value", pair)
		}
	}
	if score := p.OOMScoreAdj; !p.OOMScoreAdjUnset && (score < -1000 || score > 1000) {
		return specErrorf("process.oomScoreAdj %d is not between -1000 and 1000", score)
	}
	const maxSize = 1<<16 - 1
	if size := p.ConsoleSize; size.GetHeight() > maxSize || size.GetWidth() > maxSize {
		return specErrorf("process.consoleSize %d by %d is not possible", size.Width, size.Height)
	}
	if err := validateUser(p.User); err != nil {
		return err
	}
	if err := validateRlimits(p.Rlimits); err != nil {
		return err
	}
	return validatePriorities(p)
}

// noID is what system calls take for "do not change".
const noID = 1<<32 - 1

func validateUser(u *ocipb.User) error {
	if u.GetUID() == noID || u.GetGID() == noID {
		return specErrorf("process.user %d:%d is not possible", u.UID, u.GID)
	}
	const maxGroups = 65536 // NGROUPS_MAX
	if n := len(u.GetAdditionalGids()); n > maxGroups {
		return specErrorf("process.user.additionalGids has %d groups, more than %d", n, maxGroups)
	}
	for _, gid := range u.GetAdditionalGids() {
		if gid == noID {
			return specErrorf("process.user.additionalGids %d is not possible", gid)
		}
	}
	if u != nil && u.Umask != nil && *u.Umask > 0o777 {
		return specErrorf("process.user.umask 0%s has more than permission bits", strconv.FormatUint(uint64(*u.Umask), 8))
	}
	return nil
}

func validateRlimits(limits []*ocipb.POSIXRlimit) error {
	seen := make(map[string]bool)
	for _, limit := range limits {
		if limit == nil {
			return specErrorf("process.rlimits has an empty entry")
		}
		if _, ok := stage.Rlimit(limit.Type); !ok {
			return specErrorf("process.rlimits type %q is unknown", limit.Type)
		}
		if limit.Soft > limit.Hard {
			return specErrorf("process.rlimits %s: soft limit %d exceeds the hard limit %d", limit.Type, limit.Soft, limit.Hard)
		}
		if seen[limit.Type] {
			return specErrorf("process.rlimits %s is there twice", limit.Type)
		}
		seen[limit.Type] = true
	}
	return nil
}

func validatePriorities(p *ocipb.Process) error {
	if p.Scheduler != nil {
		if err := stage.CheckScheduler(p.Scheduler); err != nil {
			return specErrorf("process.scheduler: %v", err)
		}
	}
	if p.IOPriority != nil {
		if err := stage.CheckIOPriority(p.IOPriority); err != nil {
			return specErrorf("process.ioPriority: %v", err)
		}
	}
	for _, list := range [...]string{p.ExecCPUAffinity.GetInitial(), p.ExecCPUAffinity.GetFinal()} {
		if list == "" {
			continue
		}
		if _, err := cpulist.Parse(list); err != nil {
			return specErrorf("process.execCPUAffinity: %v", err)
		}
	}
	return nil
}

func validateSeccomp(s *ocipb.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	if len(s.Filters) == 0 {
		return specErrorf("linux.seccomp.filters is empty: the profile (default action %q, %d rules) is not compiled, which is for the host to do",
			s.DefaultAction, len(s.Syscalls))
	}
	if seccomp.Listens(s.FilterFlags) {
		return specErrorf("linux.seccomp.filterFlags %#x ask for a listener, whose descriptor cannot be handed out of the guest", s.FilterFlags)
	}
	if err := seccomp.Check(s.Filters, s.FilterFlags); err != nil {
		return specErrorf("linux.seccomp: %v", err)
	}
	return nil
}
