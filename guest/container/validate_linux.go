package container

import (
	"path"
	"strconv"
	"strings"

	"kata/api/ocipb"
	"kata/guest/container/cgroup"
	"kata/guest/container/stage"
	"kata/guest/storage/mount"
)

const (
	maxPath     = 4096 // PATH_MAX, with the zero byte at the end
	maxHostname = 64   // __NEW_UTS_LEN
)

func validateMounts(spec *ocipb.Spec) error {
	hasUsers := false
	for _, n := range spec.Linux.GetNamespaces() {
		hasUsers = hasUsers || n.GetType() == "user"
	}
	for i, m := range spec.Mounts {
		if m == nil || m.Destination == "" {
			return specErrorf("mounts[%d] has no destination", i)
		}
		for _, f := range [...]struct{ field, value string }{{"destination", m.Destination}, {"source", m.Source}, {"type", m.Type}} {
			if strings.IndexByte(f.value, 0) >= 0 {
				return specErrorf("mounts[%d].%s %q holds a zero byte", i, f.field, f.value)
			}
			if len(f.value) >= maxPath {
				return specErrorf("mounts[%d].%s is too long: %d bytes", i, f.field, len(f.value))
			}
		}
		o, err := mount.Parse(m.Options)
		if err == nil {
			err = validateIDMap(m, &o, hasUsers)
		}
		if err != nil {
			return specErrorf("mounts[%d] %s: %v", i, m.Destination, err)
		}
	}
	return nil
}

// validateIDMap checks what a mount has about ID mappings.
func validateIDMap(m *ocipb.Mount, o *mount.Options, hasUsers bool) error {
	given := len(m.UIDMappings)+len(m.GIDMappings) > 0
	switch {
	case !given && !o.IDMap:
		return nil
	case m.Type != "bind" && !o.Bind:
		return specErrorf("only a bind mount can have ID mappings, not one of type %q", m.Type)
	case !given && !hasUsers:
		return specErrorf("option idmap needs uidMappings and gidMappings, or a user namespace")
	case !given:
		return nil
	}
	if err := validateMappings("uidMappings", m.UIDMappings); err != nil {
		return err
	}
	return validateMappings("gidMappings", m.GIDMappings)
}

// validateMappings checks what the kernel would refuse (user_namespaces(7)).
func validateMappings(field string, mappings []*ocipb.LinuxIDMapping) error {
	const most, mostText = 340, 4096
	if len(mappings) == 0 || len(mappings) > most || len(mapText(mappings)) >= mostText {
		return specErrorf("%s has %d ranges; there must be 1 to %d", field, len(mappings), most)
	}
	for i, m := range mappings {
		if m.GetSize() == 0 || uint64(m.HostID)+uint64(m.Size) > noID || uint64(m.ContainerID)+uint64(m.Size) > noID {
			return specErrorf("%s[%d]: %d IDs from %d to %d are not possible", field, i, m.GetSize(), m.GetContainerID(), m.GetHostID())
		}
		for _, n := range mappings[:i] {
			if overlap(m.ContainerID, m.Size, n.ContainerID, n.Size) || overlap(m.HostID, m.Size, n.HostID, n.Size) {
				return specErrorf("%s[%d]: %d IDs from %d to %d overlap others", field, i, m.Size, m.ContainerID, m.HostID)
			}
		}
	}
	return nil
}

func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// ValidatePIDs refuses a container, unless it joins the pod's pid namespace, that
// would be in the agent's: it could signal and trace what runs the whole pod.
func ValidatePIDs(spec *ocipb.Spec) error {
	for _, n := range spec.Linux.GetNamespaces() {
		if n.GetType() == "pid" {
			return nil
		}
	}
	return specErrorf("linux.namespaces has none of type %q: the container would be in the agent's own", "pid")
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
	if _, ok := has["uts"]; !ok && (spec.Hostname != "" || spec.Domainname != "") {
		return specErrorf("hostname %q needs a uts namespace of the container's own", spec.Hostname+spec.Domainname)
	}
	for _, f := range [...]struct{ field, value string }{{"hostname", spec.Hostname}, {"domainname", spec.Domainname}} {
		if len(f.value) > maxHostname || strings.IndexByte(f.value, 0) >= 0 {
			return specErrorf("%s %q is not a name of at most %d bytes", f.field, f.value[:min(len(f.value), 100)], maxHostname)
		}
	}
	if err := validateUsers(spec); err != nil {
		return err
	}
	if err := validateTime(linux, has["time"]); err != nil {
		return err
	}
	for key := range linux.Sysctl {
		if err := validateSysctl(spec, key, has); err != nil {
			return err
		}
	}
	if linux.RootfsPropagation != "" {
		if _, err := mount.ParsePropagation(linux.RootfsPropagation); err != nil {
			return specErrorf("linux.rootfsPropagation: %v", err)
		}
	}
	for i, d := range linux.Devices {
		if err := validateDevice(i, d); err != nil {
			return err
		}
	}
	for _, list := range [...][]string{linux.MaskedPaths, linux.ReadonlyPaths} {
		for _, p := range list {
			if !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 {
				return specErrorf("linux.maskedPaths or readonlyPaths: %q is not an absolute path", p)
			}
		}
	}
	if err := validateSeccomp(linux.Seccomp); err != nil {
		return err
	}
	if err := cgroup.Validate(linux.Resources); err != nil {
		return specErrorf("linux.resources.%v", err)
	}
	if m := linux.Resources.GetMemory(); m.GetSwap() > 0 && m.Limit == 0 {
		return specErrorf("linux.resources.memory.swap %d without a memory limit", m.Swap)
	}
	return validateRest(linux)
}

// validateRest checks what is about the process more than about its file
// system.
func validateRest(linux *ocipb.Linux) error {
	if linux.Personality != nil {
		if err := stage.CheckPersonality(linux.Personality); err != nil {
			return specErrorf("linux.personality: %v", err)
		}
	}
	if linux.MemoryPolicy != nil {
		if err := stage.CheckMemoryPolicy(linux.MemoryPolicy); err != nil {
			return specErrorf("linux.memoryPolicy: %v", err)
		}
	}
	if r := linux.IntelRdt; r != nil {
		return specErrorf("linux.intelRdt (closID %q) is not possible: the guest has no resctrl", r.ClosID)
	}
	for name := range linux.NetDevices {
		return specErrorf("linux.netDevices %q is not possible: the network of a container is its pod's", name)
	}
	return nil
}

func validateDevice(i int, d *ocipb.LinuxDevice) error {
	if d == nil || !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" || strings.IndexByte(d.Path, 0) >= 0 {
		return specErrorf("linux.devices[%d] has no absolute path", i)
	}
	if !strings.Contains("cbup", d.Type) || len(d.Type) != 1 {
		return specErrorf("linux.devices[%d] %s: type %q is none of c, b, u and p", i, d.Path, d.Type)
	}
	const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // MINORBITS, include/linux/kdev_t.h
	if d.Type != "p" && (d.Major < 0 || d.Major > maxMajor || d.Minor < 0 || d.Minor > maxMinor) {
		return specErrorf("linux.devices[%d] %s: device number %d:%d is not possible", i, d.Path, d.Major, d.Minor)
	}
	if d.FileMode > 0o177777 {
		return specErrorf("linux.devices[%d] %s: fileMode 0%s is not possible", i, d.Path, strconv.FormatUint(uint64(d.FileMode), 8))
	}
	if d.UID == noID || d.GID == noID {
		return specErrorf("linux.devices[%d] %s: owner %d:%d is not possible", i, d.Path, d.UID, d.GID)
	}
	return nil
}

// validateUsers checks the user namespace and its mappings.
func validateUsers(spec *ocipb.Spec) error {
	linux := spec.Linux
	given := len(linux.UIDMappings)+len(linux.GIDMappings) > 0
	var own *ocipb.LinuxNamespace
	for _, n := range linux.Namespaces {
		if n.Type == "user" {
			own = n
		}
	}
	switch {
	case own == nil && given:
		return specErrorf("linux.uidMappings and gidMappings need a user namespace")
	case own == nil, own.Path != "" && !given:
		return nil
	}
	if err := validateMappings("linux.uidMappings", linux.UIDMappings); err != nil {
		return err
	}
	if err := validateMappings("linux.gidMappings", linux.GIDMappings); err != nil {
		return err
	}
	u := &users{linux.UIDMappings, linux.GIDMappings}
	if err := u.check(nil); err != nil {
		return specErrorf("linux.uidMappings and gidMappings must have ID 0, which sets the container up")
	}
	return u.check(spec.Process.User)
}

// validateTime checks the offsets of a time namespace.
func validateTime(linux *ocipb.Linux, own bool) error {
	for clock, o := range linux.TimeOffsets {
		switch {
		case clock != "monotonic" && clock != "boottime":
			return specErrorf("linux.timeOffsets %q is neither monotonic nor boottime", clock)
		case !own:
			return specErrorf("linux.timeOffsets need a time namespace of the container's own")
		case o.GetNanosecs() > 999999999:
			return specErrorf("linux.timeOffsets %s: %d nanoseconds are more than a second", clock, o.Nanosecs)
		}
	}
	return nil
}

// validateNamespaces returns which types the container has, and whether they
// are its own or joined by a path.
func validateNamespaces(namespaces []*ocipb.LinuxNamespace) (map[string]bool, error) {
	has := make(map[string]bool)
	for i, n := range namespaces {
		_, ok := stage.NamespaceFlag(n.GetType())
		_, twice := has[n.GetType()]
		switch {
		case !ok:
			return nil, specErrorf("linux.namespaces[%d].type %q is unknown", i, n.GetType())
		case twice:
			return nil, specErrorf("linux.namespaces[%d]: type %q is there twice", i, n.Type)
		case n.Path != "" && (!path.IsAbs(n.Path) || strings.IndexByte(n.Path, 0) >= 0):
			return nil, specErrorf("linux.namespaces[%d].path %q is not absolute", i, n.Path)
		}
		has[n.Type] = n.Path == ""
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
	{"user/", "user"},
	{"net/", ""},
}

// validateSysctl refuses parameters that would change more than the container.
func validateSysctl(spec *ocipb.Spec, key string, has map[string]bool) error {
	p := stage.SysctlPath(key)
	if path.Clean("/"+p) != "/"+p {
		return specErrorf("linux.sysctl %q is not the name of a kernel parameter", key)
	}
	for _, s := range namespacedSysctls {
		if p != s.name && !(strings.HasSuffix(s.name, "/") && strings.HasPrefix(p, s.name)) {
			continue
		}
		if _, ok := has[s.namespace]; s.namespace != "" && !ok {
			return specErrorf("linux.sysctl %q needs a %s namespace of the container's own", key, s.namespace)
		}
		if p == "kernel/hostname" && spec.Hostname != "" || p == "kernel/domainname" && spec.Domainname != "" {
			return specErrorf("linux.sysctl %q conflicts with hostname or domainname, which are given too", key)
		}
		return nil
	}
	return specErrorf("linux.sysctl %q is not in a separate kernel namespace", key)
}
