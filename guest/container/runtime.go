package container

import (
	"cmp"
	"context"
	"errors"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/log"
	"kata/guest/agent/reaper"
	"kata/guest/container/cgroup"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// Errors that callers tell apart.
var (
	// ErrNotRunning says that a process or container has ended, or has not
	// been started yet.
	ErrNotRunning = fault.New(fault.State, "not running")
	// ErrPaused says that a container is paused.
	ErrPaused = fault.New(fault.State, "the container is paused")
)

func refusef(format string, args ...any) error {
	return fault.New(fault.Invalid, fmt.Sprintf(format, args...))
}

// StageError is what a stage reported: a step of the set-up that failed, or,
// with Command, a command that cannot be executed.
type StageError struct {
	Text    string
	Command bool
}

func (e *StageError) Error() string { return e.Text }

// Unwrap makes a command that cannot be executed an invalid request.
func (e *StageError) Unwrap() error {
	if e.Command {
		return fault.Invalid
	}
	return nil
}

// Config is what a Runtime needs.
type Config struct {
	// Exe is the program that is the stage; "" is /proc/self/exe.
	Exe string
	// Reaper runs for as long as the Runtime is used.
	Reaper *reaper.Reaper
	// CgroupRoot is where cgroup v2 is mounted; "" is /sys/fs/cgroup. The
	// containers' groups are made below it, and every controller it has is
	// delegated to them.
	CgroupRoot string
	// Home is the directory of the agent's own cgroup; "" is CgroupRoot.
	Home string
	// Log gets warnings about specs; nil discards them.
	Log *log.Logger
}

// Runtime creates containers.
type Runtime struct {
	config Config
}

// NewRuntime returns a runtime. It holds nothing that must be released.
func NewRuntime(c Config) *Runtime {
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/sys/fs/cgroup"
	}
	if c.Home == "" {
		c.Home = c.CgroupRoot
	}
	return &Runtime{config: c}
}

// Stdio are a process's ends of its standard streams. They are the caller's,
// who closes them when Create or Exec has returned. A nil one is the null
// device. With a terminal all are ignored: see [Process.Console].
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// Options are what a spec has no field for.
type Options struct {
	// JoinPID makes the container join the pid namespace of another one, which
	// must be running; the spec's own pid namespace, if any, is ignored. The
	// container's processes end with its init all the same.
	JoinPID *Container
	// Shared are further mounts, which come after the spec's.
	Shared []SharedMount
}

// cleanupTime bounds what Create does after an error. Killing takes longer only
// for a process that hangs in the kernel.
const cleanupTime = 10 * time.Second

// Create makes a container and leaves it ready to Start. Its ID is unique among the
// containers of the pod. The spec belongs to the container afterwards.
//
// The error is a *fault.Error, a *StageError, or of a system call. Nothing is
// left of a container that was not created, unless it is returned beside the
// error: then its processes have been killed and hang in the kernel, and Destroy
// is to be called until it succeeds.
func (r *Runtime) Create(ctx context.Context, spec *ocispec.Container, stdio Stdio, opts Options) (*Container, error) {
	p := &spec.Plan
	if opts.JoinPID != nil {
		p.Drop(unix.CLONE_NEWPID)
	}
	r.warn(spec)
	r.planHooks(spec)
	trees := make(rootfs.Trees)
	defer trees.Close()
	if err := share(p, trees, opts.Shared); err != nil {
		return nil, err
	}
	group, err := cgroup.Create(r.config.CgroupRoot, spec.CgroupPath)
	if err != nil {
		return nil, err
	}
	c := &Container{id: spec.ID(), rt: r, spec: spec, group: group}
	if err := c.create(ctx, trees, stdio, opts); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if left := c.Destroy(cleanup); left != nil { // kills the stage, if there is one
			return c, errors.Join(err, left)
		}
		return nil, err
	}
	return c, nil
}

// create starts the stage and waits until it is ready.
func (c *Container) create(ctx context.Context, trees rootfs.Trees, stdio Stdio, opts Options) error {
	p := &c.spec.Plan
	pidns, owner, err := pidNamespace(p, opts)
	if err != nil {
		return err
	}
	defer closeFD(pidns)
	program, release, err := c.special(opts)
	if err != nil {
		return err
	}
	defer release()
	start := stageStart{
		args:   []string{"kata-agent", plan.Argument, plan.Create, c.id},
		stdio:  stdio,
		pidns:  pidns,
		flags:  cloneFlags(p),
		cgroup: c.group,
		nsexec: program,
	}
	if program != nil && opts.JoinPID == nil {
		start.pidns = 0 // one with a path is among the others
	}
	if c.init, err = c.rt.startStage(start); err != nil {
		return err
	}
	if !owner {
		// Nobody else ends what the container's init leaves behind.
		c.leftovers.Go(func() {
			<-c.init.Done()
			_ = c.group.Kill() // fails only when Destroy was faster
		})
	}
	if c.ownUsers {
		if err := c.findUsers(stdio); err != nil {
			return err
		}
	}
	if err := c.outside(trees, opts.JoinPID != nil); err != nil {
		return err
	}
	c.init.hooks = func() error { return c.createHooks(ctx) }
	p.Entered, p.Privileged = program != nil, c.ownUsers
	if c.ownUsers {
		if p.Sysctls, err = c.setSysctls(); err != nil {
			return err
		}
	}
	if err := c.init.begin(ctx, p, trees); err != nil {
		return err
	}
	if err := c.init.awaitReady(ctx); err != nil {
		return err
	}
	if c.ownUsers {
		if err := c.init.grant(&p.Process); err != nil {
			return err
		}
	}
	// Only now: the stage has more threads and uses more time and memory than
	// the container may be allowed.
	return c.group.Confine(c.spec.Resources)
}

// begin gives a stage its plan.
func (p *Process) begin(ctx context.Context, todo *plan.Plan, trees rootfs.Trees) error {
	for at := range trees {
		todo.Trees = append(todo.Trees, at)
	}
	sort.Stable(sort.IntSlice(todo.Trees))
	message, err := todo.Message()
	if err != nil {
		return fault.New(fault.Invalid, err.Error())
	}
	err = p.stage.configure(ctx, message)
	if err == nil && len(trees) > 0 {
		err = p.stage.sendTrees(ctx, trees, todo.Trees)
	}
	if err != nil {
		return p.stageFailed(err)
	}
	return nil
}

// cloneFlags are the namespaces that the stage is born with. The cgroup
// namespace is made by the stage itself, and unless one is joined there is always
// one for mounts.
func cloneFlags(p *plan.Plan) uintptr {
	flags := uintptr(unix.CLONE_NEWNS)
	if p.JoinsMounts() {
		flags = 0
	}
	for _, n := range p.Namespaces {
		if n.Path == "" {
			flags |= uintptr(n.Flag & (unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS))
		}
	}
	return flags
}

// pidNamespace opens the pid namespace to join, or returns -1; owner says
// whether the container has one of its own.
func pidNamespace(p *plan.Plan, opts Options) (fd int, owner bool, err error) {
	if opts.JoinPID != nil {
		fd, err := opts.JoinPID.init.process.PIDFD()
		if err != nil {
			return -1, false, fmt.Errorf("join the pid namespace of container %s: %w", opts.JoinPID.id, err)
		}
		return fd, false, nil
	}
	n := p.Namespace(unix.CLONE_NEWPID)
	switch {
	case n == nil:
		return -1, false, errors.New("the container has no pid namespace") // package ocispec refuses that
	case n.Path == "":
		return -1, true, nil
	}
	if fd, err = unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, false, fmt.Errorf("pid namespace %s: %w", n.Path, err)
	}
	if own, err := isOwn(fd); own || err != nil {
		unix.Close(fd)
		return -1, false, cmp.Or(err, refusef("linux.namespaces: path %q is the agent's own pid namespace", n.Path))
	}
	return fd, false, nil
}

// isOwn says whether a descriptor is that of the agent's own pid namespace.
func isOwn(fd int) (bool, error) {
	var there, own unix.Stat_t
	if err := unix.Fstat(fd, &there); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	if err := unix.Stat("/proc/self/ns/pid", &own); err != nil {
		return false, os.NewSyscallError("stat", err)
	}
	return there.Dev == own.Dev && there.Ino == own.Ino, nil
}

// warn logs what a spec asks for and does not get.
func (r *Runtime) warn(spec *ocispec.Container) {
	id := spec.ID()
	r.warnProcess(id, &spec.Plan.Process)
	if spec.Plan.JoinsMounts() {
		r.config.Log.Warn("root, mounts, devices and paths of the spec have no effect in a mount namespace that is joined", "container", id)
	}
	if spec.MountLabel != "" {
		r.config.Log.Warn("SELinux label of mounts has no effect", "container", id, "label", spec.MountLabel)
	}
}

func (r *Runtime) warnProcess(id string, p *plan.Process) {
	if len(p.Unknown) > 0 {
		r.config.Log.Warn("unknown capabilities are ignored", "container", id, "capabilities", strings.Join(p.Unknown, " "))
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// nullIfNil returns f, or the null device, which it opens.
func nullIfNil(f *os.File) (file *os.File, opened bool, err error) {
	if f != nil {
		return f, false, nil
	}
	f, err = os.OpenFile("/dev/null", syscall.O_RDWR, 0)
	return f, err == nil, err
}
