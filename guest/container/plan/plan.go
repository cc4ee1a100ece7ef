// Package plan is what the container runtime and its stage, the program that
// becomes a container's process, have in common: what is to be done, and how one
// tells the other.
//
// A [Plan] is typed: names have become numbers, options are sorted, limits are
// known to be possible. Package ocispec makes one of an OCI spec, where everything
// is checked, once. The stage executes it and checks only what it finds in the
// container.
package plan

import (
	"kata/guest/container/capability"
	"kata/guest/container/cpulist"
	"kata/guest/container/hooks"
	"kata/guest/storage/mount"

	"golang.org/x/sys/unix"
)

// Plan is what a stage does. That of an exec has a process and what all processes
// of its container have in common; everything else belongs to a new container.
type Plan struct {
	Process Process
	Common  Common
	// Entered says that the stage was started in the namespaces that the container
	// joins by path, in its time namespace, and as the root of its user namespace,
	// and that the runtime does what takes rights outside of that.
	Entered bool
	// Privileged says that the runtime sets, when the stage is Ready, what takes
	// rights outside of its user namespace.
	Privileged bool
	// Trees are the places (see rootfs.Trees) of the trees that are sent after the
	// plan, in the same order.
	Trees []int

	Namespaces           []Namespace
	Root                 Root
	Mounts               []Mount
	Devices              []Device // beside those that every container has
	Readonly, Masked     []string // paths
	Hostname, Domainname string
	Sysctls              []Sysctl
	// AwaitsHooks makes the stage stop for the runtime to run hooks, before it runs
	// its own: see the package comment of hooks.
	AwaitsHooks                     bool
	CreateContainer, StartContainer []hooks.Hook
	// State is what hooks are told, but for status and process.
	State hooks.State
}

// Process is a process: a container's first one or an exec.
type Process struct {
	Args, Env []string
	Cwd       string // "" is the root
	Terminal  bool
	// Rows and Columns are the size of the terminal; both are 0 when it has none.
	Rows, Columns uint16
	User          User
	// Names say who the user is, where the numbers do not; see [Names].
	Names           Names
	Capabilities    capability.Sets
	NoNewPrivileges bool
	Rlimits         []Rlimit
	OOMScoreAdj     int
	Scheduler       *Scheduler
	IOPriority      *IOPriority
	// Initial and Final are processors to run on, at the set-up of an exec and from
	// then on; nil is the container's. The runtime sets them, no stage is told.
	Initial, Final *cpulist.Set
	// Unknown are names of capabilities that mean nothing here, for the runtime to
	// log.
	Unknown []string
}

// User is who a process runs as, in the container's IDs.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Umask    uint32
}

// Names are a user, a group and further groups to look up in the container's
// /etc/passwd and /etc/group; numbers stand for themselves. Empty ones leave
// what User has.
type Names struct {
	User, Group string
	Groups      []string
}

// Rlimit is a resource limit (setrlimit(2)).
type Rlimit struct {
	Name       string // RLIMIT_*
	Resource   int
	Soft, Hard uint64
}

// Scheduler is a scheduling policy (sched_setattr(2)).
type Scheduler struct {
	Policy string // SCHED_*
	Attr   unix.SchedAttr
}

// IOPriority is an i/o priority (ioprio_set(2)).
type IOPriority struct {
	Class    string // IOPRIO_CLASS_*
	Number   int    // of the class
	Priority int
}

// Common is what all processes of a container have in common beside namespaces and
// cgroup.
type Common struct {
	// Filters are seccomp programs, loaded with Flags in their order.
	Filters [][]byte
	Flags   uint32
	// Personality is a domain of personality(2), 0 for the usual one.
	Personality uint32
	Memory      *MemoryPolicy
}

// MaxNodes is how many NUMA nodes a policy can name.
const MaxNodes = 1024

// MemoryPolicy is what set_mempolicy(2) takes.
type MemoryPolicy struct {
	Name string // MPOL_*
	Mode uint64 // with flags
	// Nodes is the mask, MaxNodes bits; empty for a mode that has none.
	Nodes []uint64
}

// Namespace is a namespace of a new container.
type Namespace struct {
	Type string // of the OCI spec
	Flag int    // CLONE_NEW*
	Path string // of one to join; "" makes a new one
}

// Root is a container's root file system.
type Root struct {
	Path        string
	Readonly    bool
	Propagation uint64 // MS_*; 0 is the default
}

// KeepsPeers says whether mounts that the container makes are to be seen where
// what it mounts them on comes from.
func (r *Root) KeepsPeers() bool { return r.Propagation&unix.MS_SHARED != 0 }

// Mount is one mount of a container.
type Mount struct {
	Destination, Type, Source string
	Options                   mount.Options
	IDs                       Users // the mount's own ID mappings
}

// IsBind says whether the mount shows a part of the guest's file systems.
func (m *Mount) IsBind() bool { return m.Type == "bind" || m.Options.Bind }

// Device is a device node of a container.
type Device struct {
	Path         string
	Kind         uint32 // S_IFCHR, S_IFBLK or S_IFIFO
	Major, Minor uint32
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// Sysctl is a kernel parameter.
type Sysctl struct {
	Key   string // as the spec has it
	Path  string // below /proc/sys
	Value string
}

// Namespace returns a namespace by its CLONE_NEW* flag, nil when the container has
// none of that type.
func (p *Plan) Namespace(flag int) *Namespace {
	for i := range p.Namespaces {
		if p.Namespaces[i].Flag == flag {
			return &p.Namespaces[i]
		}
	}
	return nil
}

// Drop leaves a namespace out, if there is one.
func (p *Plan) Drop(flag int) {
	for i, n := range p.Namespaces {
		if n.Flag == flag {
			p.Namespaces = append(p.Namespaces[:i], p.Namespaces[i+1:]...)
			return
		}
	}
}

// JoinsMounts says whether a container has the mounts of a namespace that exists,
// and therefore no root file system and mounts of its own.
func (p *Plan) JoinsMounts() bool {
	n := p.Namespace(unix.CLONE_NEWNS)
	return n != nil && n.Path != ""
}
