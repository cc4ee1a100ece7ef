package assign

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/machine/device"
)

// number is a device of the host or of the guest.
type number struct {
	kind         uint32 // S_IFCHR or S_IFBLK
	major, minor uint32
}

// of returns the device that a rule means, or a limit, whose kind is "b". A rule for
// many devices means none: the zero number, which no device has.
func of(kind string, major, minor int64) number {
	n := number{unix.S_IFCHR, uint32(major), uint32(minor)}
	if kind == "b" {
		n.kind = unix.S_IFBLK
	}
	if kind != n.rule() || int64(n.major) != major || int64(n.minor) != minor {
		return number{}
	}
	return n
}

// index returns the place of a device in linux.devices, or -1.
func index(p *plan.Plan, containerPath string) int {
	for i := range p.Devices {
		if path.Clean(p.Devices[i].Path) == path.Clean(containerPath) {
			return i
		}
	}
	return -1
}

// rewrite writes what has been found into the spec. Numbers are looked up as
// they were before, so that the new number of one device is not taken for the
// old one of another.
func (a *assignment) rewrite(spec *ocispec.Container) error {
	// All of them before any changes: paths are what they are found by.
	at := make(map[string]*plan.Device)
	for containerPath, f := range a.found {
		if f.kind != 0 {
			at[containerPath] = &spec.Plan.Devices[index(&spec.Plan, containerPath)]
		}
	}
	renumbered := make(map[number]found)
	for containerPath, d := range at {
		f := a.found[containerPath]
		if d.Kind == unix.S_IFIFO {
			continue // which has no number on the host
		}
		old := number{d.Kind, d.Major, d.Minor}
		if other, conflict := renumbered[old]; conflict && (other.major != f.major || other.minor != f.minor) {
			return invalid("devices.container_path", containerPath, "has the host's number of another device")
		}
		renumbered[old] = f
	}
	for containerPath, d := range at {
		f := a.found[containerPath]
		d.Kind, d.Major, d.Minor = f.kind, f.major, f.minor
		if f.path != "" {
			d.Path = f.path
		}
	}
	if len(renumbered) > 0 {
		if spec.Resources == nil {
			spec.Resources = new(ocipb.LinuxResources)
		}
		renumberRules(spec.Resources, renumbered)
		renumberLimits(spec.Resources.BlockIO, renumbered)
	}
	return a.translate(spec.Plan.Process.Env)
}

// rule is the kind of device as rules have it.
func (n number) rule() string {
	if n.kind == unix.S_IFBLK {
		return "b"
	}
	return "c"
}

// renumberRules gives the rules about the devices their numbers in the guest. A
// device that no rule names gets one that allows everything.
func renumberRules(resources *ocipb.LinuxResources, renumbered map[number]found) {
	ruled := make(map[number]bool)
	for _, rule := range resources.Devices {
		if rule == nil {
			continue
		}
		old := of(rule.Type, rule.Major, rule.Minor)
		if f, ok := renumbered[old]; ok {
			rule.Type, rule.Major, rule.Minor = f.rule(), int64(f.major), int64(f.minor)
			ruled[old] = true
		}
	}
	for old, f := range renumbered {
		if !ruled[old] {
			resources.Devices = append(resources.Devices, &ocipb.LinuxDeviceCgroup{
				Allow: true, Type: f.rule(), Major: int64(f.major), Minor: int64(f.minor), Access: "rwm",
			})
		}
	}
}

// renumberLimits does the same for io weights and throttles.
func renumberLimits(io *ocipb.LinuxBlockIO, renumbered map[number]found) {
	if io == nil {
		return
	}
	renumber := func(major, minor *int64) {
		old := of("b", *major, *minor)
		if f, ok := renumbered[old]; ok {
			*major, *minor = int64(f.major), int64(f.minor)
		}
	}
	for _, w := range io.WeightDevice {
		if w != nil {
			renumber(&w.Major, &w.Minor)
		}
	}
	for _, list := range [...][]*ocipb.LinuxThrottleDevice{
		io.ThrottleReadBpsDevice, io.ThrottleWriteBpsDevice, io.ThrottleReadIOPSDevice, io.ThrottleWriteIOPSDevice,
	} {
		for _, t := range list {
			if t != nil {
				renumber(&t.Major, &t.Minor)
			}
		}
	}
}

// Variables by which the device plugin of SR-IOV tells a container its devices.
const (
	variablePrefix = "PCIDEVICE_"
	variableInfo   = "_INFO"
)

// translate gives the variables PCIDEVICE_NAME=ADDRESS,… the guest's addresses,
// and PCIDEVICE_NAME_INFO, which has the same addresses in JSON, with them. What
// is not a list of addresses stays, and so does all without a PCI device in the
// request.
func (a *assignment) translate(env []string) error {
	if len(a.addresses) == 0 {
		return nil
	}
	info := make(map[string]bool)
	for i, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, variablePrefix) || strings.HasSuffix(name, variableInfo) {
			continue
		}
		var guests []string
		for _, text := range strings.Split(value, ",") {
			host, err := device.ParsePCIAddress(text)
			if err != nil {
				guests = nil
				break
			}
			guest, ok := a.addresses[host]
			if !ok {
				return invalid("OCI.Process.Env", variable, "has an address that no device of the request has")
			}
			guests = append(guests, guest)
		}
		if guests != nil {
			env[i] = name + "=" + strings.Join(guests, ",")
			info[name+variableInfo] = true
		}
	}
	for i, variable := range env {
		if name, value, _ := strings.Cut(variable, "="); info[name] {
			env[i] = name + "=" + a.replace(value)
		}
	}
	return nil
}

// replace replaces the host's addresses in a text by the guest's.
func (a *assignment) replace(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		n := 1
		to := text[:1]
		for host, guest := range a.addresses {
			if len(text) >= len(host) && strings.EqualFold(text[:len(host)], host) {
				n, to = len(host), guest
			}
		}
		b.WriteString(to)
		text = text[n:]
	}
	return b.String()
}
