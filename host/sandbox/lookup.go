package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kata/host/journal"
	"kata/host/process"
)

// Pod is a sandbox as its journal describes it.
type Pod struct {
	ID        string
	Namespace string
	// Containers are the ids of its containers, in the order of their creation.
	Containers []string
	// Shim is the process that holds it.
	Shim process.ID
	Dir  string
}

// AgentSocket is the socket through which root reaches the ports of the pod's
// guest (package vsock, Hybrid).
func (p Pod) AgentSocket() string { return filepath.Join(p.Dir, agentSocket) }

func (p Pod) String() string {
	if p.Namespace == "" {
		return p.ID
	}
	return p.Namespace + "/" + p.ID
}

// Pods returns the sandboxes whose state is below root, in the order of their
// names. What cannot be read, because it is just being made or removed, is left
// out.
func Pods(root string) ([]Pod, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pods []Pod
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		header, records, err := journal.Read(dir)
		if err != nil || header.ID == "" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		p := Pod{ID: header.ID, Namespace: header.Namespace, Shim: header.Shim, Dir: dir}
		for _, r := range records {
			if c, ok := r.Entry.(journal.Container); ok {
				p.Containers = append(p.Containers, c.ID)
			}
		}
		pods = append(pods, p)
	}
	slices.SortStableFunc(pods, func(a, b Pod) int { return strings.Compare(a.String(), b.String()) })
	return pods, nil
}

// ErrNoPod says that a name means no sandbox.
var ErrNoPod = errors.New("there is no such pod on this host")

// Lookup finds the sandbox below root that name means: its id, the id of one of
// its containers, or the beginning of one of these, with the containerd
// namespace and a slash before it where several have the same. A whole id counts
// more than a beginning, and a sandbox's more than a container's. The error
// names what there is, and wraps ErrNoPod when none is meant.
func Lookup(root, name string) (Pod, error) {
	pods, err := Pods(root)
	if err != nil {
		return Pod{}, fmt.Errorf("look for sandbox %s: %w", name, err)
	}
	namespace, id, ok := strings.Cut(name, "/")
	if !ok {
		namespace, id = "", name
	}
	for _, matches := range []func(Pod) bool{
		func(p Pod) bool { return p.ID == id },
		func(p Pod) bool { return slices.Contains(p.Containers, id) },
		func(p Pod) bool {
			return strings.HasPrefix(p.ID, id) ||
				slices.ContainsFunc(p.Containers, func(c string) bool { return strings.HasPrefix(c, id) })
		},
	} {
		found := slices.DeleteFunc(slices.Clone(pods), func(p Pod) bool {
			return namespace != "" && p.Namespace != namespace || !matches(p)
		})
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return Pod{}, fmt.Errorf("sandbox %s: several pods are meant by that: %s", name, names(found))
		}
	}
	if len(pods) == 0 {
		return Pod{}, fmt.Errorf("sandbox %s: %w; there is none at all", name, ErrNoPod)
	}
	return Pod{}, fmt.Errorf("sandbox %s: %w; these are: %s", name, ErrNoPod, names(pods))
}

// names lists pods, not too many.
func names(pods []Pod) string {
	const most = 8
	var all []string
	for _, p := range pods[:min(len(pods), most)] {
		all = append(all, p.String())
	}
	if more := len(pods) - most; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}
