package guestspec

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

func (s *Spec) convertLinux(l *specs.Linux, o Options) error {
	resources, err := ConvertResources(l.Resources)
	if err != nil {
		return err
	}
	out := &ocipb.Linux{
		UIDMappings: mappings(l.UIDMappings), GIDMappings: mappings(l.GIDMappings),
		Sysctl: l.Sysctl, Resources: resources, CgroupsPath: l.CgroupsPath,
		RootfsPropagation: l.RootfsPropagation, MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths,
	}
	s.OCI.Linux = out
	if p := l.Personality; p != nil {
		out.Personality = &ocipb.LinuxPersonality{Domain: string(p.Domain)}
		for _, f := range p.Flags {
			out.Personality.Flags = append(out.Personality.Flags, string(f))
		}
	}
	for clock, offset := range l.TimeOffsets {
		if out.TimeOffsets == nil {
			out.TimeOffsets = make(map[string]*ocipb.LinuxTimeOffset)
		}
		out.TimeOffsets[clock] = &ocipb.LinuxTimeOffset{Secs: offset.Secs, Nanosecs: offset.Nanosecs}
	}
	if l.MountLabel != "" {
		s.Ignored = append(s.Ignored, "linux.mountLabel "+l.MountLabel)
	}
	for i, d := range l.Devices {
		device, err := convertDevice(d)
		if err != nil {
			return fmt.Errorf("spec: linux.devices[%d]: %w", i, err)
		}
		out.Devices = append(out.Devices, device)
	}
	switch {
	case l.Seccomp == nil:
	case o.DropSeccomp:
		s.Ignored = append(s.Ignored, "linux.seccomp (disable_guest_seccomp is set)")
	default:
		if out.Seccomp, err = s.convertSeccomp(l.Seccomp); err != nil {
			return err
		}
	}
	if err := s.convertPlacement(l); err != nil {
		return err
	}
	return s.convertNamespaces(l)
}

// convertPlacement translates what says where a container's memory, cache and
// devices come from: only the guest's own memory can be had.
func (s *Spec) convertPlacement(l *specs.Linux) error {
	if m := l.MemoryPolicy; m != nil {
		s.OCI.Linux.MemoryPolicy = &ocipb.LinuxMemoryPolicy{Mode: string(m.Mode), Nodes: m.Nodes, Flags: words(m.Flags)}
	}
	for name := range l.NetDevices {
		return fmt.Errorf("spec: linux.netDevices %q: a network device of the host cannot be moved into a virtual machine", name)
	}
	if l.IntelRdt != nil {
		return fmt.Errorf("spec: linux.intelRdt (closID %q): a virtual machine has no control over the processor's caches", l.IntelRdt.ClosID)
	}
	return nil
}

// convertNamespaces keeps what the guest makes for the container. Host paths
// mean nothing there: a network namespace is the pod's, and so is a pid
// namespace with a path.
func (s *Spec) convertNamespaces(l *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, n := range l.Namespaces {
		if seen[n.Type] {
			return fmt.Errorf("spec: linux.namespaces[%d]: type %q is there twice", i, n.Type)
		}
		seen[n.Type] = true
		switch n.Type {
		case specs.NetworkNamespace:
			continue
		case specs.PIDNamespace:
			if n.Path != "" {
				s.SandboxPidns = true
				continue
			}
		case specs.UTSNamespace, specs.IPCNamespace, specs.CgroupNamespace:
		case specs.UserNamespace:
			// That of a pod: containerd names it and repeats its mappings, with
			// which the guest makes one that is like it.
			if n.Path != "" && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0) {
				return hostNamespace(i, n)
			}
		case specs.MountNamespace, specs.TimeNamespace:
			if n.Path != "" {
				return hostNamespace(i, n)
			}
		default:
			return fmt.Errorf("spec: linux.namespaces[%d].type %q is unknown", i, n.Type)
		}
		s.OCI.Linux.Namespaces = append(s.OCI.Linux.Namespaces, &ocipb.LinuxNamespace{Type: string(n.Type)})
	}
	return nil
}

func hostNamespace(i int, n specs.LinuxNamespace) error {
	return fmt.Errorf("spec: linux.namespaces[%d]: a %s namespace of the host (%s) cannot be joined from a VM", i, n.Type, n.Path)
}

func mappings(in []specs.LinuxIDMapping) []*ocipb.LinuxIDMapping {
	var out []*ocipb.LinuxIDMapping
	for _, m := range in {
		out = append(out, &ocipb.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Size})
	}
	return out
}

func convertDevice(d specs.LinuxDevice) (*ocipb.LinuxDevice, error) {
	if !strings.HasPrefix(d.Path, "/") {
		return nil, fmt.Errorf("path %q is not absolute", d.Path)
	}
	switch d.Type {
	case "c", "b", "u", "p":
	default:
		return nil, fmt.Errorf("type %q of %s is none of c, b, u and p", d.Type, d.Path)
	}
	out := &ocipb.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: 0o666}
	if d.FileMode != nil {
		out.FileMode = uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		out.UID = *d.UID
	}
	if d.GID != nil {
		out.GID = *d.GID
	}
	return out, nil
}

// ConvertResources translates limits; nil gives nil.
func ConvertResources(r *specs.LinuxResources) (*ocipb.LinuxResources, error) {
	if r == nil {
		return nil, nil
	}
	out := &ocipb.LinuxResources{Memory: memory(r.Memory), CPU: cpu(r.CPU), BlockIO: blockIO(r.BlockIO)}
	if r.Pids != nil && r.Pids.Limit != nil {
		out.Pids = &ocipb.LinuxPids{Limit: *r.Pids.Limit}
	}
	for i, d := range r.Devices {
		rule := &ocipb.LinuxDeviceCgroup{Allow: d.Allow, Type: d.Type, Major: -1, Minor: -1, Access: d.Access}
		if strings.Trim(d.Access, "rwm") != "" {
			return nil, fmt.Errorf("spec: linux.resources.devices[%d].access %q is not made of r, w and m", i, d.Access)
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		out.Devices = append(out.Devices, rule)
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &ocipb.LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	out.Unified = r.Unified
	for name, limit := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = make(map[string]*ocipb.LinuxRdma)
		}
		out.Rdma[name] = &ocipb.LinuxRdma{HcaHandles: limit.HcaHandles, HcaObjects: limit.HcaObjects}
	}
	return out, nil
}

func memory(m *specs.LinuxMemory) *ocipb.LinuxMemory {
	if m == nil {
		return nil
	}
	return &ocipb.LinuxMemory{
		Limit: value(m.Limit), Reservation: value(m.Reservation), Swap: value(m.Swap),
		Swappiness: value(m.Swappiness), DisableOOMKiller: value(m.DisableOOMKiller),
		CheckBeforeUpdate: value(m.CheckBeforeUpdate),
	}
}

func cpu(c *specs.LinuxCPU) *ocipb.LinuxCPU {
	if c == nil {
		return nil
	}
	return &ocipb.LinuxCPU{
		Shares: value(c.Shares), Quota: value(c.Quota), Period: value(c.Period),
		RealtimeRuntime: value(c.RealtimeRuntime), RealtimePeriod: value(c.RealtimePeriod),
		Cpus: c.Cpus, Mems: c.Mems, Burst: c.Burst, Idle: c.Idle,
	}
}

func blockIO(b *specs.LinuxBlockIO) *ocipb.LinuxBlockIO {
	if b == nil {
		return nil
	}
	out := &ocipb.LinuxBlockIO{
		Weight: uint32(value(b.Weight)), LeafWeight: uint32(value(b.LeafWeight)),
		ThrottleReadBpsDevice:  throttles(b.ThrottleReadBpsDevice),
		ThrottleWriteBpsDevice: throttles(b.ThrottleWriteBpsDevice), ThrottleReadIOPSDevice: throttles(b.ThrottleReadIOPSDevice),
		ThrottleWriteIOPSDevice: throttles(b.ThrottleWriteIOPSDevice),
	}
	for _, w := range b.WeightDevice {
		out.WeightDevice = append(out.WeightDevice, &ocipb.LinuxWeightDevice{
			Major: w.Major, Minor: w.Minor, Weight: uint32(value(w.Weight)), LeafWeight: uint32(value(w.LeafWeight)),
		})
	}
	return out
}

func throttles(in []specs.LinuxThrottleDevice) []*ocipb.LinuxThrottleDevice {
	var out []*ocipb.LinuxThrottleDevice
	for _, t := range in {
		out = append(out, &ocipb.LinuxThrottleDevice{Major: t.Major, Minor: t.Minor, Rate: t.Rate})
	}
	return out
}

// value is what p points to, or zero, which the wire does not tell from absent.
func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
