package spec

import (
	"errors"
	"fmt"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Check says why a container of the spec could not run, as far as the spec
// alone tells, so that no VM is booted for it in vain.
func Check(s *specs.Spec) error {
	if s.Root == nil || s.Root.Path == "" {
		return errors.New("root.path is missing")
	}
	if err := CheckProcess(s.Process); err != nil {
		return err
	}
	if s.Linux == nil {
		return nil
	}
	seen := make(map[specs.LinuxNamespaceType]bool)
	for i, ns := range s.Linux.Namespaces {
		if !knownNamespace(ns.Type) {
			return fmt.Errorf("linux.namespaces[%d]: unknown namespace %q", i, ns.Type)
		}
		if seen[ns.Type] {
			return fmt.Errorf("linux.namespaces[%d]: namespace %q is given twice", i, ns.Type)
		}
		seen[ns.Type] = true
	}
	return nil
}

// CheckProcess is Check for a process alone, as an exec brings one.
func CheckProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process is missing")
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process.args is empty: there is no command to run")
	case p.Cwd != "" && !path.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd %q is not an absolute path", p.Cwd)
	}
	return nil
}

func knownNamespace(t specs.LinuxNamespaceType) bool {
	switch t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		return true
	}
	return false
}

// SharesPIDs tells whether the container's processes live in a PID namespace
// that is not their own, so that some may survive its first process.
func SharesPIDs(s *specs.Spec) bool {
	if s.Linux == nil {
		return true
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path != ""
		}
	}
	return true
}
