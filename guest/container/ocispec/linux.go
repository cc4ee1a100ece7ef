package ocispec

import (
	"path"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/cgroup"
	"kata/guest/container/plan"
	"kata/guest/container/seccomp"
	"kata/guest/storage/mount"
)

const maxHostname = 64 // __NEW_UTS_LEN

// Namespaces that a spec's other parts depend on.
const (
	newUser   = unix.CLONE_NEWUSER
	newPID    = unix.CLONE_NEWPID
	newCgroup = unix.CLONE_NEWCGROUP
)

// namespaces are the CLONE_NEW* flags of OCI's namespace types.
var namespaces = table{
	{"pid", newPID}, {"network", unix.CLONE_NEWNET}, {"mount", unix.CLONE_NEWNS}, {"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS}, {"user", newUser}, {"cgroup", newCgroup}, {"time", unix.CLONE_NEWTIME},
}

func parseNamespaces(given []*ocipb.LinuxNamespace) (all []plan.Namespace, err error) {
	p := &plan.Plan{}
	for i, n := range given {
		number, ok := namespaces.find(n.GetType())
		flag := int(number)
		switch {
		case !ok:
			return nil, errorf("linux.namespaces[%d].type %q is unknown", i, n.GetType())
		case p.Namespace(flag) != nil:
			return nil, errorf("linux.namespaces[%d]: type %q is there twice", i, n.Type)
		case n.Path != "" && (!path.IsAbs(n.Path) || hasZero(n.Path)):
			return nil, errorf("linux.namespaces[%d].path %q is not absolute", i, n.Path)
		}
		p.Namespaces = append(p.Namespaces, plan.Namespace{Type: n.Type, Flag: flag, Path: n.Path})
	}
	return p.Namespaces, nil
}

// parseLinux reads what belongs to namespaces, which are known.
func (c *Container) parseLinux(spec *ocipb.Spec, linux *ocipb.Linux) (err error) {
	p := &c.Plan
	if p.Namespace(unix.CLONE_NEWUTS) == nil && (spec.Hostname != "" || spec.Domainname != "") {
		return errorf("hostname %q needs a uts namespace of the container's own", spec.Hostname+spec.Domainname)
	}
	for _, f := range [...]struct{ field, value string }{{"hostname", spec.Hostname}, {"domainname", spec.Domainname}} {
		if len(f.value) > maxHostname || hasZero(f.value) {
			return errorf("%s %q is not a name of at most %d bytes", f.field, f.value[:min(len(f.value), 100)], maxHostname)
		}
	}
	p.Hostname, p.Domainname = spec.Hostname, spec.Domainname
	if err := c.parseUsers(linux); err != nil {
		return err
	}
	if c.TimeOffsets, err = parseTime(p, linux); err != nil {
		return err
	}
	if p.Sysctls, err = parseSysctls(p, linux.Sysctl); err != nil {
		return err
	}
	if linux.RootfsPropagation != "" {
		if p.Root.Propagation, err = mount.ParsePropagation(linux.RootfsPropagation); err != nil {
			return errorf("linux.rootfsPropagation: %v", err)
		}
	}
	for i, d := range linux.Devices {
		device, err := parseDevice(i, d)
		if err != nil {
			return err
		}
		p.Devices = append(p.Devices, device)
	}
	for _, list := range [...][]string{linux.MaskedPaths, linux.ReadonlyPaths} {
		for _, name := range list {
			if !path.IsAbs(name) || hasZero(name) {
				return errorf("linux.maskedPaths or readonlyPaths: %q is not an absolute path", name)
			}
		}
	}
	p.Masked, p.Readonly, c.MountLabel = linux.MaskedPaths, linux.ReadonlyPaths, linux.MountLabel
	if err := cgroup.Validate(linux.Resources); err != nil {
		return errorf("linux.resources.%v", err)
	}
	if m := linux.Resources.GetMemory(); m.GetSwap() > 0 && m.Limit == 0 {
		return errorf("linux.resources.memory.swap %d without a memory limit", m.Swap)
	}
	c.Resources = linux.Resources
	if p.Common, err = parseCommon(linux); err != nil {
		return err
	}
	if r := linux.IntelRdt; r != nil {
		return errorf("linux.intelRdt (closID %q) is not possible: the guest has no resctrl", r.ClosID)
	}
	for name := range linux.NetDevices {
		return errorf("linux.netDevices %q is not possible: the network of a container is its pod's", name)
	}
	return nil
}

// parseCommon reads what is about the processes more than about their file system.
func parseCommon(linux *ocipb.Linux) (common plan.Common, err error) {
	if s := linux.Seccomp; s != nil {
		if err := checkSeccomp(s); err != nil {
			return common, err
		}
		common.Filters, common.Flags = s.Filters, s.FilterFlags
	}
	if common.Personality, err = parsePersonality(linux.Personality); err != nil {
		return common, errorf("linux.personality: %v", err)
	}
	if common.Memory, err = parseMemoryPolicy(linux.MemoryPolicy); err != nil {
		return common, errorf("linux.memoryPolicy: %v", err)
	}
	return common, nil
}

func checkSeccomp(s *ocipb.LinuxSeccomp) error {
	if len(s.Filters) == 0 {
		return errorf("linux.seccomp.filters is empty: the profile (default action %q, %d rules) is not compiled, which is for the host to do",
			s.DefaultAction, len(s.Syscalls))
	}
	if seccomp.Listens(s.FilterFlags) {
		return errorf("linux.seccomp.filterFlags %#x ask for a listener, whose descriptor cannot be handed out of the guest", s.FilterFlags)
	}
	if err := seccomp.Check(s.Filters, s.FilterFlags); err != nil {
		return errorf("linux.seccomp: %v", err)
	}
	return nil
}

// deviceTypes are the kinds of nodes that OCI knows.
var deviceTypes = table{
	{"c", unix.S_IFCHR}, {"u", unix.S_IFCHR}, {"b", unix.S_IFBLK}, {"p", unix.S_IFIFO},
}

func parseDevice(i int, d *ocipb.LinuxDevice) (device plan.Device, err error) {
	if d == nil || !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" || hasZero(d.Path) {
		return device, errorf("linux.devices[%d] has no absolute path", i)
	}
	kind, ok := deviceTypes.find(d.Type)
	if !ok {
		return device, errorf("linux.devices[%d] %s: type %q is none of c, b, u and p", i, d.Path, d.Type)
	}
	device = plan.Device{Path: d.Path, Kind: kind, Mode: d.FileMode & 0o7777, UID: d.UID, GID: d.GID}
	if kind != unix.S_IFIFO {
		const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // MINORBITS, include/linux/kdev_t.h
		if d.Major < 0 || d.Major > maxMajor || d.Minor < 0 || d.Minor > maxMinor {
			return device, errorf("linux.devices[%d] %s: device number %d:%d is not possible", i, d.Path, d.Major, d.Minor)
		}
		device.Major, device.Minor = uint32(d.Major), uint32(d.Minor)
	}
	if d.FileMode > 0o177777 {
		return device, errorf("linux.devices[%d] %s: fileMode 0%s is not possible", i, d.Path, strconv.FormatUint(uint64(d.FileMode), 8))
	}
	if device.Mode == 0 {
		device.Mode = 0o666
	}
	if d.UID == noID || d.GID == noID {
		return device, errorf("linux.devices[%d] %s: owner %d:%d is not possible", i, d.Path, d.UID, d.GID)
	}
	return device, nil
}

// parseTime returns the offsets of a time namespace as the kernel takes them.
func parseTime(p *plan.Plan, linux *ocipb.Linux) (string, error) {
	n := p.Namespace(unix.CLONE_NEWTIME)
	var b []byte
	for clock, o := range linux.TimeOffsets {
		switch {
		case clock != "monotonic" && clock != "boottime":
			return "", errorf("linux.timeOffsets %q is neither monotonic nor boottime", clock)
		case n == nil || n.Path != "":
			return "", errorf("linux.timeOffsets need a time namespace of the container's own")
		case o.GetNanosecs() > 999999999:
			return "", errorf("linux.timeOffsets %s: %d nanoseconds are more than a second", clock, o.Nanosecs)
		}
		b = append(b, clock...)
		b = strconv.AppendInt(append(b, ' '), o.GetSecs(), 10)
		b = strconv.AppendUint(append(b, ' '), uint64(o.GetNanosecs()), 10)
		b = append(b, '\n')
	}
	return string(b), nil
}

// namespaced are the kernel parameters that a namespace has its own values of; a
// name that ends in a slash stands for all below. Those of the network belong to
// the pod, whose namespace is the guest's.
var namespaced = []struct{ name, namespace string }{
	{"kernel/msgmax", "ipc"}, {"kernel/msgmnb", "ipc"}, {"kernel/msgmni", "ipc"}, {"kernel/sem", "ipc"},
	{"kernel/shmall", "ipc"}, {"kernel/shmmax", "ipc"}, {"kernel/shmmni", "ipc"}, {"kernel/shm_rmid_forced", "ipc"},
	{"fs/mqueue/", "ipc"},
	{"kernel/hostname", "uts"}, {"kernel/domainname", "uts"},
	{"user/", "user"},
	{"net/", ""},
}

func parseSysctls(p *plan.Plan, given map[string]string) (all []plan.Sysctl, err error) {
	keys := make([]string, 0, len(given))
	for key := range given {
		keys = append(keys, key)
	}
	sort.Stable(sort.StringSlice(keys)) // which the agent has already; sort.Strings is 10 KB
	for _, key := range keys {
		name := sysctlPath(key)
		if err := checkSysctl(p, key, name); err != nil {
			return nil, err
		}
		all = append(all, plan.Sysctl{Key: key, Path: name, Value: given[key]})
	}
	return all, nil
}

// checkSysctl refuses a parameter that would change more than the container.
func checkSysctl(p *plan.Plan, key, name string) error {
	if path.Clean("/"+name) != "/"+name || hasZero(name) {
		return errorf("linux.sysctl %q is not the name of a kernel parameter", key)
	}
	for _, s := range namespaced {
		if name != s.name && !(strings.HasSuffix(s.name, "/") && strings.HasPrefix(name, s.name)) {
			continue
		}
		if flag, ok := namespaces.find(s.namespace); ok && p.Namespace(int(flag)) == nil {
			return errorf("linux.sysctl %q needs a %s namespace of the container's own", key, s.namespace)
		}
		if name == "kernel/hostname" && p.Hostname != "" || name == "kernel/domainname" && p.Domainname != "" {
			return errorf("linux.sysctl %q conflicts with hostname or domainname, which are given too", key)
		}
		return nil
	}
	return errorf("linux.sysctl %q is not in a separate kernel namespace", key)
}

// sysctlPath returns the path below /proc/sys of a kernel parameter, whose parts
// are separated by dots, or by slashes if a slash comes first; then a dot stands
// for itself, as in sysctl(8).
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
