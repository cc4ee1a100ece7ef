package container

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/hooks"
	"kata/guest/container/stage"
	"kata/guest/mount"
	"kata/guest/seccomp"
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
		return &SpecError{err.Error()}
	}
	if err := validateMounts(spec.Mounts); err != nil {
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
	if score := p.OOMScoreAdj; !p.OOMScoreAdjUnset && (score < -1000 || score > 1000) {
		return specErrorf("process.oomScoreAdj %d is not between -1000 and 1000", score)
	}
	seen := make(map[string]bool)
	for _, limit := range p.Rlimits {
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
	const maxSize = 1<<16 - 1
	if size := p.ConsoleSize; size.GetHeight() > maxSize || size.GetWidth() > maxSize {
		return specErrorf("process.consoleSize %d by %d is not possible", size.Width, size.Height)
	}
	if p.ExecCPUAffinity != nil {
		return specErrorf("process.execCPUAffinity is not supported")
	}
	return nil
}

func validateMounts(mounts []*ocipb.Mount) error {
	for i, m := range mounts {
		if m == nil || m.Destination == "" {
			return specErrorf("mounts[%d] has no destination", i)
		}
		if strings.IndexByte(m.Destination+m.Source+m.Type, 0) >= 0 {
			return specErrorf("mounts[%d] %q holds a zero byte", i, m.Destination)
		}
		if _, err := mount.Parse(m.Options); err != nil {
			return specErrorf("mounts[%d] %s: %v", i, m.Destination, err)
		}
	}
	return nil
}

func validateLinux(spec *ocipb.Spec) error {
	linux := spec.Linux
	if linux == nil {
		return nil
	}
	has, err := validateNamespaces(linux.Namespaces)
	if err != nil {
		return err
	}
	if !has["uts"] && (spec.Hostname != "" || spec.Domainname != "") {
		return specErrorf("hostname %q needs a uts namespace of the container's own", spec.Hostname+spec.Domainname)
	}
	for key := range linux.Sysctl {
		if err := validateSysctl(key, has); err != nil {
			return err
		}
	}
	if linux.RootfsPropagation != "" {
		if _, err := mount.ParsePropagation(linux.RootfsPropagation); err != nil {
			return specErrorf("linux.rootfsPropagation: %v", err)
		}
	}
	for i, d := range linux.Devices {
		if d == nil || !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" {
			return specErrorf("linux.devices[%d] has no absolute path", i)
		}
		if !strings.Contains("cbup", d.Type) || len(d.Type) != 1 {
			return specErrorf("linux.devices[%d] %s: type %q is none of c, b, u and p", i, d.Path, d.Type)
		}
	}
	if err := validateSeccomp(linux.Seccomp); err != nil {
		return err
	}
	if len(linux.TimeOffsets) > 0 || len(linux.NetDevices) > 0 || linux.MemoryPolicy != nil {
		return specErrorf("linux.timeOffsets, netDevices and memoryPolicy are not supported")
	}
	if linux.IntelRdt != nil {
		return specErrorf("linux.intelRdt is not supported")
	}
	if len(linux.UIDMappings)+len(linux.GIDMappings) > 0 {
		return specErrorf("linux.uidMappings and gidMappings need a user namespace, which is not supported")
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

// validateNamespaces returns which types are the container's own.
func validateNamespaces(namespaces []*ocipb.LinuxNamespace) (map[string]bool, error) {
	has := make(map[string]bool)
	for i, n := range namespaces {
		flag, ok := stage.NamespaceFlag(n.GetType())
		switch {
		case !ok:
			return nil, specErrorf("linux.namespaces[%d].type %q is unknown", i, n.GetType())
		case has[n.Type]:
			return nil, specErrorf("linux.namespaces[%d]: type %q is there twice", i, n.Type)
		case n.Path != "" && !path.IsAbs(n.Path):
			return nil, specErrorf("linux.namespaces[%d].path %q is not absolute", i, n.Path)
		case flag == unix.CLONE_NEWUSER || flag == unix.CLONE_NEWTIME:
			return nil, specErrorf("linux.namespaces[%d]: %s namespaces are not supported", i, n.Type)
		case flag == unix.CLONE_NEWNS && n.Path != "":
			return nil, specErrorf("linux.namespaces[%d]: joining a mount namespace (%s) is not supported", i, n.Path)
		}
		has[n.Type] = true
	}
	return has, nil
}

// namespacedSysctls are the kernel parameters that a namespace has its own
// values of; a name that ends in a slash stands for all below. Those of the
// network belong to the pod, whose namespace is the guest's.
var namespacedSysctls = []struct{ name, namespace string }{
	{"kernel/msgmax", "ipc"}, {"kernel/msgmnb", "ipc"}, {"kernel/msgmni", "ipc"}, {"kernel/sem", "ipc"},
	{"kernel/shmall", "ipc"}, {"kernel/shmmax", "ipc"}, {"kernel/shmmni", "ipc"}, {"kernel/shm_rmid_forced", "ipc"},
	{"fs/mqueue/", "ipc"},
	{"kernel/hostname", "uts"}, {"kernel/domainname", "uts"},
	{"net/", ""},
}

// validateSysctl refuses parameters that would change more than the container.
func validateSysctl(key string, has map[string]bool) error {
	p := stage.SysctlPath(key)
	if path.Clean("/"+p) != "/"+p {
		return specErrorf("linux.sysctl %q is not the name of a kernel parameter", key)
	}
	for _, s := range namespacedSysctls {
		if p != s.name && !(strings.HasSuffix(s.name, "/") && strings.HasPrefix(p, s.name)) {
			continue
		}
		if s.namespace != "" && !has[s.namespace] {
			return specErrorf("linux.sysctl %q needs a %s namespace of the container's own", key, s.namespace)
		}
		return nil
	}
	return specErrorf("linux.sysctl %q is not in a separate kernel namespace", key)
}
