// Package guestspec translates an OCI runtime spec of the host into the spec
// that the agent runs in the guest.
//
// What belongs to the host is taken out or rewritten: paths of bind mounts
// (which the caller shares with the guest), host namespaces, the hooks that the host runs, security
// labels. What has no effect is listed, not dropped in silence. The package is
// a pure function of its input; it opens and mounts nothing. It follows the
// OCI runtime specification 1.3 and the agent API (api/proto/oci.proto).
package guestspec

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

// maxHostname is what sethostname(2) takes.
const maxHostname = 64

// Options are what the spec itself does not say.
type Options struct {
	// Rootfs is the container's root file system in the guest.
	Rootfs string
	// SharedShm is the pod's shared memory in the guest; a bind mount on
	// /dev/shm comes from there, not from the host.
	SharedShm string
	// DropSeccomp leaves the seccomp profile out; otherwise it is compiled.
	DropSeccomp bool
	// GuestHooks says that all hooks of the spec are programs of the guest;
	// otherwise those are that run in the container's namespaces, and the host
	// runs the others.
	GuestHooks bool
	// SandboxPidns makes the container join the pod's pid namespace.
	SandboxPidns bool
}

// Spec is a translated spec.
type Spec struct {
	OCI          *ocipb.Spec
	SandboxPidns bool
	// Binds are the mounts whose source is on the host. The caller shares each
	// Source and writes where the guest finds it into Mount.Source.
	Binds []Bind
	// Ignored names the parts of the spec that have no effect, for the log.
	Ignored []string
}

// Bind is a bind mount of a file or folder of the host.
type Bind struct {
	Source    string
	Readonly  bool
	Recursive bool
	Mount     *ocipb.Mount // as the guest will see it
}

// Convert translates spec. The error names the part of the spec that the guest
// cannot honour, and its value.
func Convert(spec *specs.Spec, o Options) (*Spec, error) {
	if spec.Process == nil {
		return nil, errors.New("spec: process is missing")
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	process, err := ConvertProcess(spec.Process)
	if err != nil {
		return nil, err
	}
	out := &Spec{OCI: &ocipb.Spec{
		Version: spec.Version, Process: process, Hostname: clip(spec.Hostname, maxHostname), Domainname: spec.Domainname,
		Root:        &ocipb.Root{Path: o.Rootfs, Readonly: spec.Root != nil && spec.Root.Readonly},
		Annotations: spec.Annotations,
	}}
	if err := out.convertMounts(spec.Mounts, o); err != nil {
		return nil, err
	}
	if err := out.convertLinux(spec.Linux, o); err != nil {
		return nil, err
	}
	if out.SandboxPidns = out.SandboxPidns || o.SandboxPidns; out.SandboxPidns {
		out.dropNamespace(string(specs.PIDNamespace))
	}
	if out.OCI.Hooks, err = hooks(spec.Hooks, o.GuestHooks); err != nil {
		return nil, err
	}
	out.noteIgnored(spec, o)
	return out, nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func (s *Spec) noteIgnored(spec *specs.Spec, o Options) {
	if p := spec.Process.ApparmorProfile; p != "" {
		s.Ignored = append(s.Ignored, "process.apparmorProfile "+p)
	}
	if l := spec.Process.SelinuxLabel; l != "" {
		s.Ignored = append(s.Ignored, "process.selinuxLabel "+l)
	}
}

// convertMounts passes mounts of the guest's own file systems on and sets bind
// mounts of the host apart.
func (s *Spec) convertMounts(mounts []specs.Mount, o Options) error {
	for i, m := range mounts {
		if !path.IsAbs(m.Destination) {
			return fmt.Errorf("spec: mounts[%d].destination %q is not absolute", i, m.Destination)
		}
		out := &ocipb.Mount{Destination: m.Destination, Source: m.Source, Type: m.Type, Options: m.Options,
			UIDMappings: mappings(m.UIDMappings), GIDMappings: mappings(m.GIDMappings)}
		if !isBind(m) {
			s.OCI.Mounts = append(s.OCI.Mounts, out)
			continue
		}
		switch source := path.Clean(m.Source); {
		case !path.IsAbs(m.Source):
			return fmt.Errorf("spec: mounts[%d].source %q of a bind mount is not absolute", i, m.Source)
		case m.Destination == "/dev/shm" && o.SharedShm != "":
			out.Source = o.SharedShm
		case guestOwned(source):
			// The guest's own /proc, /sys or /dev is meant: the host's would be
			// another kernel's.
		default:
			s.Binds = append(s.Binds, Bind{
				Source: source, Mount: out,
				Readonly:  slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro"),
				Recursive: !slices.Contains(m.Options, "bind"),
			})
		}
		s.OCI.Mounts = append(s.OCI.Mounts, out)
	}
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// guestOwned reports whether a host path names something that only the guest's
// kernel can give to a container.
func guestOwned(source string) bool {
	for _, top := range []string{"/proc", "/sys", "/dev"} {
		if source == top || strings.HasPrefix(source, top+"/") {
			return true
		}
	}
	return false
}

func (s *Spec) dropNamespace(kind string) {
	s.OCI.Linux.Namespaces = slices.DeleteFunc(s.OCI.Linux.Namespaces, func(n *ocipb.LinuxNamespace) bool {
		return n.Type == kind
	})
}
