// Package pod says what a pod is, apart from its containers: what the shim hands
// to the sandbox when it boots it. It is made once, from the bundle of the pod's
// first container, or from what a pod manager asks for.
//
// It describes; it starts and checks nothing of the host.
package pod

import (
	"maps"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec describes a pod.
type Spec struct {
	// Hostname is that of the pod's containers; empty leaves the guest's.
	Hostname string
	// DNS is the pod's resolver, for what the guest itself resolves.
	DNS DNS
	// NetnsPath is the network namespace of the host that the pod's interfaces
	// are in; empty for none, or one that the runtime would make.
	NetnsPath string
	// Size is what the pod's containers need together, as far as it is known
	// when the pod is made; the zero value says that it is not.
	Size Size
	// OOMScoreAdj says how much sooner than others the kernel ends the pod when
	// the host's memory is short (proc(5)).
	OOMScoreAdj int
	// Annotations are all that the pod was given.
	Annotations map[string]string
	// Namespaces are those of the host's kernel that the pod was asked to join
	// or to have, as the bundle has them.
	Namespaces []specs.LinuxNamespace
}

// DNS is a resolver's configuration (resolv.conf(5)).
type DNS struct {
	Servers, Searches, Options []string
}

// Lines are the configuration in resolv.conf's form; nil for an empty one.
func (d DNS) Lines() []string {
	var lines []string
	for _, server := range d.Servers {
		lines = append(lines, "nameserver "+server)
	}
	if len(d.Searches) > 0 {
		lines = append(lines, "search "+strings.Join(d.Searches, " "))
	}
	if len(d.Options) > 0 {
		lines = append(lines, "options "+strings.Join(d.Options, " "))
	}
	return lines
}

// Size is what a pod may use.
type Size struct {
	// MilliCPUs are thousandths of a CPU.
	MilliCPUs int64
	// MemoryBytes is memory.
	MemoryBytes int64
}

// Annotations by which containerd's CRI plugin tells the size of a pod, that is of
// its containers together: CPU shares are left to the guest.
const (
	cpuQuota    = "io.kubernetes.cri.sandbox-cpu-quota"  // microseconds in a period
	cpuPeriod   = "io.kubernetes.cri.sandbox-cpu-period" // microseconds
	memoryLimit = "io.kubernetes.cri.sandbox-memory"     // bytes
)

// FromBundle reads the pod out of its first container's spec. Sizes that are no
// numbers, or say that there is no limit, count as unknown.
func FromBundle(s *specs.Spec) Spec {
	p := Spec{Hostname: s.Hostname, Annotations: maps.Clone(s.Annotations), Size: sizeOf(s.Annotations)}
	p.OOMScoreAdj = oomScoreAdj(s)
	if s.Linux == nil {
		return p
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			p.NetnsPath = n.Path
		}
		p.Namespaces = append(p.Namespaces, n)
	}
	return p
}

// By these annotations pod managers mark the container that stands for a pod.
const (
	criType    = "io.kubernetes.cri.container-type"
	criOType   = "io.kubernetes.cri-o.ContainerType"
	podSandbox = "sandbox"
)

// oomScoreAdj is that of the pod's first container, unless it is a manager's pause
// container: a process so small that it gets -998, near the shim's own. Its pod is
// not.
func oomScoreAdj(s *specs.Spec) int {
	pause := s.Annotations[criType] == podSandbox || s.Annotations[criOType] == podSandbox
	if pause || s.Process == nil || s.Process.OOMScoreAdj == nil {
		return 0
	}
	return *s.Process.OOMScoreAdj
}

func sizeOf(annotations map[string]string) Size {
	number := func(key string) int64 {
		n, err := strconv.ParseInt(annotations[key], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	size := Size{MemoryBytes: number(memoryLimit)}
	quota, period := number(cpuQuota), number(cpuPeriod)
	const most = 1 << 40 // microseconds, so that nothing overflows
	if period > 0 && quota <= most {
		size.MilliCPUs = (quota*1000 + period - 1) / period
	}
	return size
}
