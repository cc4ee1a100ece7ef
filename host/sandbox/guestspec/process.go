package guestspec

import (
	"fmt"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

// ConvertProcess translates a process: a container's first one or an exec.
func ConvertProcess(p *specs.Process) (*ocipb.Process, error) {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return nil, fmt.Errorf("spec: process.args %q names no command", p.Args)
	case p.Cwd != "" && !path.IsAbs(p.Cwd):
		return nil, fmt.Errorf("spec: process.cwd %q is not absolute", p.Cwd)
	}
	out := &ocipb.Process{
		Terminal: p.Terminal, Args: p.Args, Env: p.Env, Cwd: p.Cwd, NoNewPrivileges: p.NoNewPrivileges,
		User: &ocipb.User{
			UID: p.User.UID, GID: p.User.GID, AdditionalGids: p.User.AdditionalGids, Username: p.User.Username,
		},
	}
	out.User.Umask = p.User.Umask
	if p.ConsoleSize != nil {
		out.ConsoleSize = &ocipb.Box{Height: uint32(p.ConsoleSize.Height), Width: uint32(p.ConsoleSize.Width)}
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = &ocipb.LinuxCapabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, &ocipb.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
	}
	if p.OOMScoreAdj == nil {
		out.OOMScoreAdjUnset = true
	} else {
		out.OOMScoreAdj = int64(*p.OOMScoreAdj)
	}
	if a := p.ExecCPUAffinity; a != nil {
		out.ExecCPUAffinity = &ocipb.CPUAffinity{Initial: a.Initial, Final: a.Final}
	}
	convertPriorities(p, out)
	return out, nil
}

func convertPriorities(p *specs.Process, out *ocipb.Process) {
	if i := p.IOPriority; i != nil {
		out.IOPriority = &ocipb.LinuxIOPriority{Class: string(i.Class), Priority: int32(i.Priority)}
	}
	s := p.Scheduler
	if s == nil {
		return
	}
	out.Scheduler = &ocipb.LinuxScheduler{
		Policy: string(s.Policy), Nice: s.Nice, Priority: s.Priority,
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		out.Scheduler.Flags = append(out.Scheduler.Flags, string(f))
	}
}
