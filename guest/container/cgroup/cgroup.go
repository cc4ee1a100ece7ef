// Package cgroup runs the cgroup v2 hierarchy of the guest: one group a
// container, with its limits, statistics, freezer and devices.
//
// A [Group] is made empty by [Create] below a root that the boot code mounted
// and delegated; processes enter by being forked into it (see [Group.Use]) or by
// [Group.Add]. Waiting (for frozen, for empty) is by poll(2) on cgroup.events,
// never by looking again later. [Group.Destroy] ends what still runs and
// removes the group with all that the container made below it.
//
// The package knows no cgroup v1 and no systemd. It follows
// Documentation/admin-guide/cgroup-v2.rst and, for the meaning of OCI limits,
// runc.
package cgroup

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
	"kata/lib/ownedfd"
)

// Group is one cgroup. Its methods may be called concurrently.
type Group struct {
	path string      // in the file system
	dir  *ownedfd.FD // O_PATH descriptor of path

	oomBefore uint64 // OOM kills of a group that was taken over

	devices   deviceFilter
	placement placement

	destroy sync.Mutex // held by Destroy only
	gone    bool       // under destroy
}

// Path returns the path of a container's group below the root, from the
// cgroupsPath of its spec: cleaned, so that it cannot leave the root. The form
// of systemd, slice:prefix:name, becomes /prefix/name, as upstream maps it. An
// empty path becomes /id.
func Path(cgroupsPath, id string) (string, error) {
	p := cgroupsPath
	if p == "" {
		p = id
	}
	if parts := strings.Split(p, ":"); len(parts) == 3 && !strings.Contains(parts[1]+parts[2], "/") {
		if parts[2] == "" {
			return "", fmt.Errorf("cgroup path %q has no name", cgroupsPath)
		}
		p = parts[1] + "/" + parts[2]
	}
	p = path.Clean("/" + p)
	if p == "/" {
		return "", fmt.Errorf("cgroup path %q is the root", cgroupsPath)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxName {
			return "", fmt.Errorf("cgroup path %q… has a name of %d bytes", cgroupsPath[:min(len(cgroupsPath), 100)], len(name))
		}
	}
	if len(p) > maxPath {
		return "", fmt.Errorf("cgroup path %q… has %d bytes", cgroupsPath[:100], len(p))
	}
	if strings.ContainsAny(p, "\n\x00") {
		return "", fmt.Errorf("cgroup path %q holds a line break or a zero byte", cgroupsPath)
	}
	return p, nil
}

const (
	maxName = 255  // NAME_MAX
	maxPath = 2048 // with what comes before and behind it, less than PATH_MAX
)

// Create makes the group at path (see [Path]) below root, with every
// controller of the root delegated down to it. A group that is there is taken
// over if no process is in it. The caller ends with Destroy.
func Create(root, path string) (*Group, error) {
	full, err := makeDirs(root, path)
	if err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	dir, err := unix.Open(full, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	g := &Group{path: full, dir: ownedfd.New(dir)}
	events, err := g.events()
	if err == nil && events.populated {
		err = errors.New("it has processes already")
	}
	if err == nil && events.frozen {
		err = errors.New("it is frozen") // a fork into it would block
	}
	if err != nil {
		g.dir.Close()
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	g.oomBefore, _ = oomKills(dir) // none without the controller
	return g, nil
}

// makeDirs makes the directories of path below root, enabling controllers on
// the way, and returns the full path.
func makeDirs(root, path string) (string, error) {
	controllers, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return "", err
	}
	full := root
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := delegate(full, strings.Fields(string(controllers))); err != nil {
			return "", err
		}
		full += "/" + name
		if err := unix.Mkdir(full, 0o755); err != nil && err != unix.EEXIST {
			return "", &os.PathError{Op: "mkdir", Path: full, Err: err}
		}
	}
	return full, nil
}

// delegate makes controllers available to the children of dir.
func delegate(dir string, controllers []string) error {
	file := dir + "/cgroup.subtree_control"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	enabled := strings.Fields(string(text))
	var missing string
	for _, c := range controllers {
		if !slices.Contains(enabled, c) {
			missing += " +" + c
		}
	}
	if missing == "" {
		return nil
	}
	return write(unix.AT_FDCWD, file, missing[1:])
}

// Use calls f with an O_PATH descriptor of the group, for CLONE_INTO_CGROUP,
// which is valid until f returns. After Destroy the error is os.ErrClosed, as it
// is of every method that needs the group.
func (g *Group) Use(f func(dir int) error) error { return g.dir.Use(f) }

// write writes value to a file of the group.
func (g *Group) write(file, value string) error {
	return g.dir.Use(func(dir int) error { return write(dir, file, value) })
}

// read returns the content of a file of the group.
func (g *Group) read(file string) (text string, err error) {
	err = g.dir.Use(func(dir int) error {
		text, err = read(dir, file)
		return err
	})
	return text, err
}

// Add moves a process, with all its threads, into the group. A group that is
// divided among groups below it may have no processes of its own
// (cgroup-v2.rst, "No Internal Process Constraint"); then the process goes to
// where the process beside is.
func (g *Group) Add(pid, beside int) error {
	err := g.write("cgroup.procs", strconv.Itoa(pid))
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	found := errors.New("found")
	walkErr := g.eachProcess(func(dir string, p int) error {
		if p != beside {
			return nil
		}
		err = write(unix.AT_FDCWD, dir+"/cgroup.procs", strconv.Itoa(pid))
		return found
	})
	if walkErr == found || walkErr == nil {
		return err
	}
	return walkErr
}

// Pids returns the processes of the group and of the groups below it, in the
// reader's pid namespace. Zombies are not among them.
func (g *Group) Pids() ([]int, error) {
	var pids []int
	err := g.eachProcess(func(_ string, pid int) error {
		pids = append(pids, pid)
		return nil
	})
	return pids, err
}

// eachProcess calls f for each process and the group it is in.
func (g *Group) eachProcess(f func(dir string, pid int) error) error {
	return walk(g.path, func(dir string) error {
		text, err := os.ReadFile(dir + "/cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // a threaded group: its processes are listed above it
		}
		if err != nil {
			return err
		}
		for line := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return fmt.Errorf("%s/cgroup.procs: %w", dir, err)
			}
			if pid == 0 {
				continue // in another pid namespace
			}
			if err := f(dir, pid); err != nil {
				return err
			}
		}
		return nil
	})
}

// Kill sends SIGKILL to every process of the group and below, and to those
// that are being forked.
func (g *Group) Kill() error {
	return g.write("cgroup.kill", "1")
}

// Freeze stops every process of the group and returns when all have stopped.
// If ctx ends first they run again and its error is returned.
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	err := g.await(ctx, func(e events) bool { return e.frozen })
	if err != nil {
		err = fmt.Errorf("freeze: %w", err)
		return errors.Join(err, g.write("cgroup.freeze", "0"))
	}
	return nil
}

// Thaw lets the processes run again and returns when they do.
func (g *Group) Thaw(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "0"); err != nil {
		return err
	}
	if err := g.await(ctx, func(e events) bool { return !e.frozen }); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}

// Frozen reports whether every process of the group is stopped by a freezer,
// the group's own or one above or inside.
func (g *Group) Frozen() (bool, error) {
	e, err := g.events()
	return e.frozen, err
}

// Destroy kills what runs in the group, waits until it is empty and removes it
// with everything below. It may be called again; once it has succeeded it
// does nothing. When ctx ends first the group stays and its error is returned.
func (g *Group) Destroy(ctx context.Context) error {
	g.destroy.Lock()
	defer g.destroy.Unlock()
	if g.gone {
		return nil
	}
	err := g.Kill()
	if err == nil {
		err = g.await(ctx, func(e events) bool { return !e.populated })
	}
	if err == nil {
		err = g.dir.Use(removeBelow)
	}
	if err == nil {
		err = unix.Rmdir(g.path)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove cgroup %s: %w", g.path, err)
	}
	g.devices.close()
	_ = g.dir.Close() // the only one to
	g.gone = true
	return nil
}
