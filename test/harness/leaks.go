package harness

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kata/api"
)

// place is a directory outside the node's own where runtimes keep things. Others
// use it at the same time, so what is found there counts by its name alone.
type place struct {
	dir   string
	depth int // how deep to look
	mine  func(n *Node, path string) bool
}

var places = []place{
	{"/run/kata", 2, (*Node).marked},
	{"/run/vc", 3, (*Node).marked},
	{api.GuestRoot, 3, (*Node).marked},
	{"/dev/shm", 1, (*Node).marked},
	{"/sys/fs/cgroup", 4, (*Node).marked},
	{"/run/netns", 1, (*Node).marked},
	{socketDir, 1, (*Node).ownsSocket},
	{"/sys/class/net", 1, (*Node).ownsDevice},
}

// socketDir is where containerd's shims have their sockets, named by a hash.
const socketDir = "/run/containerd/s"

// marked says that a path carries the id of one of the node's containers.
func (n *Node) marked(path string) bool { return hasToken(path, n.mark()) }

// ownsSocket says that a socket's name is the hash of one of the node's containers,
// by containerd's convention (SocketAddress of its shim package): of the daemon's
// address, with "debug" for the second socket of a shim, the namespace and the id.
func (n *Node) ownsSocket(path string) bool {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	for _, id := range n.idsSoFar() {
		for _, address := range []string{n.socket(), filepath.Join(n.socket(), "debug")} {
			if name == fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(address, Namespace, id)))) {
				return true
			}
		}
	}
	return false
}

// ownsDevice says that a network device of the host is a runtime's: it, or its
// alias, carries the mark of the node, or "kata" as upstream's taps do.
func (n *Node) ownsDevice(path string) bool {
	alias, _ := os.ReadFile(filepath.Join(path, "ifalias"))
	for _, name := range []string{filepath.Base(path), string(alias)} {
		if hasToken(name, n.mark()) || strings.Contains(name, "kata") {
			return true
		}
	}
	return false
}

// Mark is what was on the host at one moment.
type Mark struct{ things map[string]bool }

// Mark remembers what is there now, to compare with later.
func (n *Node) Mark() (Mark, error) {
	things, err := n.inventory()
	return Mark{things}, err
}

// Leaks waits until nothing is left that the node's containers made since the
// mark, and returns what is still there when ctx ends.
func (n *Node) Leaks(ctx context.Context, before Mark) ([]string, error) {
	var left []string
	err := Await(ctx, "nothing to be left", func() (bool, error) {
		now, err := n.inventory()
		if err != nil {
			return false, err
		}
		left = left[:0]
		for thing := range now {
			if !before.things[thing] {
				left = append(left, thing)
			}
		}
		return len(left) == 0, nil
	})
	slices.Sort(left)
	left = slices.DeleteFunc(left, func(thing string) bool {
		dir, isFile := strings.CutPrefix(thing, "file ")
		_, inside := slices.BinarySearch(left, "file "+filepath.Dir(dir))
		return isFile && inside
	})
	if len(left) > 0 && errors.Is(err, context.Cause(ctx)) {
		return left, nil
	}
	return left, err
}

// inventory lists, in words, everything a container could leave behind.
func (n *Node) inventory() (map[string]bool, error) {
	things := make(map[string]bool)
	for _, p := range n.processes() {
		if p.Program() == filepath.Base(n.opts.Ctr) {
			continue // its caller waits for it
		}
		things["process "+p.String()] = true
	}
	points, err := mountPoints()
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		if n.marked(p) {
			things["mount "+p] = true
		}
	}
	sockets, err := unixSockets()
	if err != nil {
		return nil, err
	}
	for _, s := range sockets {
		if n.marked(s) || strings.HasPrefix(s, socketDir+"/") && n.ownsSocket(s) {
			things["socket "+s] = true
		}
	}
	for _, p := range places {
		mine := func(path string) bool { return p.mine(n, path) }
		if err := list(things, p.dir, p.depth, mine); err != nil {
			return nil, err
		}
	}
	// containerd's own bundles and temporary mounts. The FIFOs are ctr's.
	for _, dir := range []string{"state", "tmp", "root/io.containerd.runtime.v2.task"} {
		if err := list(things, filepath.Join(n.dir, dir), 4, nil); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(things, func(thing string, _ bool) bool { return n.ordinary(thing) })
	return things, nil
}

// ordinary says whether a thing belongs to the daemon rather than to a
// container, though it may appear late.
func (n *Node) ordinary(thing string) bool {
	file, isFile := strings.CutPrefix(thing, "file "+n.dir+"/")
	if !isFile {
		return strings.Contains(thing, n.socket())
	}
	switch file {
	case "tmp/image.tar",
		"state/s", // where shims have their sockets
		"state/io.containerd.runtime.v2.task",
		"state/io.containerd.runtime.v2.task/" + Namespace,
		"root/io.containerd.runtime.v2.task/" + Namespace:
		return true
	}
	return false
}

// list adds the paths below dir, to the given depth, that keep accepts.
func list(things map[string]bool, dir string, depth int, keep func(string) bool) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil // gone while looking, or another user's
			}
			return err
		}
		if keep == nil || keep(path) {
			things["file "+path] = true
		}
		if e.IsDir() && strings.Count(strings.TrimPrefix(path, dir), "/") >= depth {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	return nil
}

// mountPoints returns the mount points of this mount namespace, parents before
// children (proc_pid_mountinfo(5), field 5).
func mountPoints() ([]string, error) {
	return fields("/proc/self/mountinfo", func(f []string) (string, bool) {
		if len(f) < 5 {
			return "", false
		}
		return f[4], true
	})
}

// unixSockets returns the names of listening unix sockets, abstract ones with
// an @ in front (proc_net(5)).
func unixSockets() ([]string, error) {
	const listening = "00010000" // __SO_ACCEPTCON
	return fields("/proc/net/unix", func(f []string) (string, bool) {
		if len(f) < 8 || f[3] != listening {
			return "", false
		}
		return f[7], true
	})
}

// fields returns what pick takes from each line of a file.
func fields(path string, pick func([]string) (string, bool)) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var picked []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := pick(strings.Fields(lines.Text())); ok {
			picked = append(picked, value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return picked, nil
}
