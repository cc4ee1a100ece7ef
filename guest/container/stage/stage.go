// Package stage is the program that becomes a container's process, what runc calls
// "runc init": the agent's own binary, started again by the container runtime with
// new namespaces (clone3), that builds what the process needs around itself
// (setns, pivot_root, setresuid, seccomp) and then executes it.
//
// There are two kinds. The stage of a new container makes the root file system
// and waits, everything done, until it is told to execute. The stage of an exec
// joins the namespaces of a running container. Both get one message with what
// to do, on a socket that is descriptor 3, and answer on it: a terminal, that
// they are ready, or what failed. When the process is executed the socket
// closes by itself, which is how the runtime learns of it.
//
// Everything happens on the main thread, because namespaces, credentials and
// capabilities belong to threads and execve(2) keeps those of the caller. The
// program that calls [Main] must lock its main goroutine to the main thread in
// an init function (runtime.LockOSThread). Nothing of the agent reaches the
// container: descriptors close on execve, the process cannot be traced before,
// and its binary is on a mount that is read-only.
//
// The package does not check the plan, which comes from the agent (see package
// ocispec), only what it finds in the container.
package stage

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/container/apply"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/lib/fmt"
)

// Main turns the process into a stage if its arguments say so, and then does not
// return.
func Main() {
	if len(os.Args) < 2 || os.Args[1] != plan.Argument {
		return
	}
	runtime.LockOSThread()
	// The stage lives for milliseconds and allocates little.
	debug.SetGCPercent(-1)
	c := conn(plan.SocketFD)
	err := run(c, os.Args)
	// Reached on failure only. Whoever listens is told why; there is no other
	// place to tell it, since standard error is the container's.
	c.fail(err)
	unix.Exit(1)
}

func run(c conn, args []string) error {
	// Until execve, nobody in a shared pid namespace may look into this
	// process: it has the agent's descriptors and powers.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the stage undumpable: %w", err)
	}
	if err := unix.CloseRange(3, ^uint(0)>>33, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	if len(args) != 4 {
		return errors.New("the stage was started without its arguments")
	}
	p, err := c.plan()
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	unix.Umask(0)
	if !p.Privileged {
		if err := setOOMScore(p.Process.OOMScoreAdj); err != nil {
			return err
		}
	}
	switch kind, id := args[2], args[3]; {
	case kind == plan.Create && p.JoinsMounts():
		return createInside(c, p, id)
	case kind == plan.Create:
		return create(c, p, id)
	case kind == plan.Exec:
		return exec(c, p, id)
	default:
		return fmt.Errorf("unknown kind of stage %q", kind)
	}
}

// create builds a new container around the process.
func create(c conn, p *plan.Plan, id string) error {
	if err := enterNamespaces(p.Namespaces, p.Entered); err != nil {
		return err
	}
	if err := joinKeyring(id); err != nil {
		return err
	}
	trees, err := c.trees(p.Trees)
	if err != nil {
		return fmt.Errorf("receive mounts: %w", err)
	}
	root, err := rootfs.Prepare(p, trees)
	if err != nil {
		return err
	}
	if p.Process.Terminal {
		if err := useTerminal(c, &p.Process, root.Terminal); err != nil {
			return err
		}
	}
	if err := createHooks(c, p); err != nil {
		return err
	}
	if err := root.Pivot(p.Root.Propagation); err != nil {
		return err
	}
	if err := setKernel(p); err != nil {
		return err
	}
	if err := root.Seal(); err != nil {
		return err
	}
	return become(c, p, func() error { return startHooks(p) })
}

// createInside makes a new container of a mount namespace that exists, with its
// root and its mounts.
func createInside(c conn, p *plan.Plan, id string) error {
	if err := enterNamespaces(p.Namespaces, p.Entered); err != nil {
		return err
	}
	if err := joinKeyring(id); err != nil {
		return err
	}
	if err := terminalOfRoot(c, &p.Process); err != nil {
		return err
	}
	if err := createHooks(c, p); err != nil {
		return err
	}
	if err := setKernel(p); err != nil {
		return err
	}
	return become(c, p, func() error { return startHooks(p) })
}

// setKernel sets what the container's namespaces have of their own.
func setKernel(p *plan.Plan) error {
	if err := setNames(p.Hostname, p.Domainname); err != nil {
		return err
	}
	return apply.Sysctls(p.Sysctls, func(_ plan.Sysctl, err error) error { return err })
}

// exec joins a running container.
func exec(c conn, p *plan.Plan, id string) error {
	// A mount namespace can be entered only by a thread that shares its
	// working directory and root with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	namespaces := unix.CLONE_NEWNS
	if !p.Entered {
		namespaces |= plan.OtherNamespaces
	}
	if err := unix.Setns(plan.InitFD, namespaces); err != nil {
		if err == unix.ESRCH {
			return errors.New("the container is not running")
		}
		return fmt.Errorf("enter the container's namespaces: %w", err)
	}
	if err := joinKeyring(id); err != nil {
		return err
	}
	if err := terminalOfRoot(c, &p.Process); err != nil {
		return err
	}
	return become(c, p, func() error { return nil })
}

// terminalOfRoot gives the process a terminal of the devpts in the root, if it
// is to have one.
func terminalOfRoot(c conn, p *plan.Process) error {
	if !p.Terminal {
		return nil
	}
	return useTerminal(c, p, func() (int, int, error) {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, -1, err
		}
		defer unix.Close(root)
		return rootfs.OpenTerminal(root)
	})
}

// setOOMScore runs while /proc is still the agent's.
func setOOMScore(score int) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", strconv.AppendInt(nil, int64(score), 10), 0); err != nil {
		return fmt.Errorf("set oom_score_adj to %d: %w", score, err)
	}
	return nil
}

// useTerminal makes a terminal the standard streams and the controlling
// terminal of the process, and hands its other end over.
func useTerminal(c conn, p *plan.Process, open func() (master, slave int, err error)) error {
	master, slave, err := open()
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer unix.Close(master)
	defer unix.Close(slave)
	if p.Rows != 0 || p.Columns != 0 {
		winsize := unix.Winsize{Row: p.Rows, Col: p.Columns}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &winsize); err != nil {
			return fmt.Errorf("set the size of the terminal: %w", err)
		}
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fmt.Errorf("use the terminal: %w", err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make the terminal the controlling one: %w", err)
	}
	return c.send(plan.Console, nil, master)
}
