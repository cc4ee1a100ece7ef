// Package ocispec makes a typed plan of an OCI spec: the one place where a spec is
// checked.
//
// A spec comes from the host, which has it from a client, and may hold anything.
// [Parse] and [ParseProcess] find out what makes no sense or is not possible in a
// guest before anything is made: the error names the field and its value, as
// "process.rlimits type "RLIMIT_X" is unknown". What they return is known to be
// possible, as far as that can be known without the container; names have become
// numbers, so that who executes it (package stage, package container) looks nothing
// up and checks nothing again.
package ocispec

import (
	"path"
	"strings"

	"kata/api/ocipb"
	"kata/guest/container/cgroup"
	"kata/guest/container/hooks"
	"kata/guest/container/plan"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// Container is a new container.
type Container struct {
	// Plan is for the stage, but for hooks and trees: the runtime adds them.
	Plan plan.Plan

	// The rest is the runtime's own business.

	// Users are the IDs of the user namespace; none are given where the container has
	// none, or joins one and says nothing about it.
	Users plan.Users
	// TimeOffsets are those of the time namespace, in the form of
	// time_namespaces(7).
	TimeOffsets string
	// CgroupPath is the place of the container's cgroup below the root of all.
	CgroupPath string
	// Resources are checked; see cgroup.Validate.
	Resources *ocipb.LinuxResources
	Hooks     hooks.Set
	// MountLabel is the SELinux label of mounts, which has no effect.
	MountLabel string
}

// ID is the container's ID.
func (c *Container) ID() string { return c.Plan.State.ID }

// Annotations are the spec's.
func (c *Container) Annotations() map[string]string { return c.Plan.State.Annotations }

// Options are what a spec has no field for.
type Options struct {
	// SharesPIDs says that the container will be in the pod's pid namespace, so that
	// it needs none.
	SharesPIDs bool
	// Names of the user of the first process.
	Names plan.Names
}

func errorf(format string, args ...any) error {
	return fault.New(fault.Invalid, fmt.Sprintf(format, args...))
}

// hasZero says whether a text cannot be handed to the kernel.
//
//go:noinline
func hasZero(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// maxID is the longest container ID: it becomes the name of a directory.
const maxID = 255

// Parse makes a plan of the spec of a new container. The error is a *fault.Error
// of the kind fault.Invalid. The spec is not changed; it is not to be changed
// afterwards.
func Parse(id string, spec *ocipb.Spec, o Options) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errorf("the spec is missing")
	}
	process, err := ParseProcess(spec.Process, o.Names)
	if err != nil {
		return nil, err
	}
	root := spec.Root.GetPath()
	if !path.IsAbs(root) || path.Clean(root) == "/" || hasZero(root) {
		return nil, errorf("root.path %q is not an absolute path below /", root)
	}
	c := &Container{}
	p := &c.Plan
	p.Process = process
	p.Root = plan.Root{Path: root, Readonly: spec.Root.GetReadonly()}
	p.State = hooks.State{Version: spec.Version, ID: id, Bundle: path.Dir(path.Clean(root)), Annotations: spec.Annotations}
	if c.Hooks, err = parseHooks(spec.Hooks); err != nil {
		return nil, err
	}
	linux := spec.Linux
	if linux == nil {
		linux = new(ocipb.Linux)
	}
	if p.Namespaces, err = parseNamespaces(linux.Namespaces); err != nil {
		return nil, err
	}
	if p.Mounts, err = parseMounts(spec.Mounts, p.Namespace(newUser) != nil); err != nil {
		return nil, err
	}
	if err := c.parseLinux(spec, linux); err != nil {
		return nil, err
	}
	if c.CgroupPath, err = cgroup.Path(linux.CgroupsPath, id); err != nil {
		return nil, errorf("linux.cgroupsPath: %v", err)
	}
	// It could signal and trace what runs the whole pod.
	if !o.SharesPIDs && p.Namespace(newPID) == nil {
		return nil, errorf("linux.namespaces has none of type %q: the container would be in the agent's own", "pid")
	}
	if p.Namespace(newCgroup) == nil {
		// The container's own group is what it sees at /sys/fs/cgroup and in
		// /proc/self/cgroup, as under runc on a host with cgroup v2. Clients on a host
		// with v1 ask for no such namespace; there the mount alone shows the
		// container's groups.
		p.Namespaces = append(p.Namespaces, plan.Namespace{Type: "cgroup", Flag: newCgroup})
	}
	return c, nil
}

func checkID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > maxID {
		return errorf("container ID %q is empty, too long or a dot", id)
	}
	for _, r := range id {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-+:", r)
		if !ok {
			return errorf("container ID %q holds %q", id, r)
		}
	}
	return nil
}
