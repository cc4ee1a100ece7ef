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

	"kata/api/ocipb"
	"kata/guest/agent/log"
	"kata/guest/agent/reaper"
	"kata/guest/container/capability"
	"kata/guest/container/cgroup"
	"kata/guest/container/rootfs"
	"kata/guest/container/stage"
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

// SpecError is a spec that is wrong or asks for what is not possible. The text
// names the field and the value.
type SpecError = fault.Error

func specErrorf(format string, args ...any) error {
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

// StageMain turns the process into a stage if it was started as one, and then
// does not return; else it reports false. See the package comment.
func StageMain() bool {
	if len(os.Args) < 2 || os.Args[1] != stage.Argument {
		return false
	}
	stage.Main(os.Args)
	return true
}

// Stdio are a process's ends of its standard streams. They are the caller's,
// who closes them when Create or Exec has returned. A nil one is the null
// device. With a terminal all are ignored: see [Process.Console].
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// Names are a user and its groups to look up in the container; see stage.Names.
type Names = stage.Names

// Options are what a spec has no field for.
type Options struct {
	// JoinPID makes the container join the pid namespace of another one, which
	// must be running; the spec's own pid namespace, if any, is ignored. The
	// container's processes end with its init all the same.
	JoinPID *Container
	// Names of the user of the first process, where the spec has numbers.
	Names Names
	// Shared are further mounts, which come after the spec's.
	Shared []SharedMount
}

// cleanupTime bounds what Create does after an error. Killing takes longer only
// for a process that hangs in the kernel.
const cleanupTime = 10 * time.Second

// Create makes a container and leaves it ready to Start. The id is unique among
// the containers of the pod and made of letters, digits and "_.-". Spec must
// not be changed afterwards.
//
// The error is a *SpecError, a *StageError, or of a system call. Nothing is
// left of a container that was not created, unless it is returned beside the
// error: then its processes have been killed and hang in the kernel, and Destroy
// is to be called until it succeeds.
func (r *Runtime) Create(ctx context.Context, id string, spec *ocipb.Spec, stdio Stdio, opts Options) (*Container, error) {
	if opts.JoinPID != nil {
		spec = withoutPIDNamespace(spec)
	}
	if err := Validate(id, spec); err != nil {
		return nil, err
	}
	if opts.JoinPID == nil {
		if err := ValidatePIDs(spec); err != nil {
			return nil, err
		}
	}
	r.warn(id, spec)
	spec = r.withoutHostsHooks(id, withCgroupNamespace(spec))
	path, err := cgroup.Path(spec.Linux.GetCgroupsPath(), id)
	if err != nil {
		return nil, specErrorf("linux.cgroupsPath: %v", err)
	}
	trees := make(rootfs.Trees)
	defer trees.Close()
	spec, err = share(spec, trees, opts.Shared)
	if err != nil {
		return nil, err
	}
	group, err := cgroup.Create(r.config.CgroupRoot, path)
	if err != nil {
		return nil, err
	}
	c := &Container{id: id, rt: r, spec: spec, group: group}
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
	pidns, owner, err := pidNamespace(c.spec, opts)
	if err != nil {
		return err
	}
	defer closeFD(pidns)
	born, release, err := c.special(opts)
	if err != nil {
		return err
	}
	defer release()
	start := stageStart{
		args:   []string{"kata-agent", stage.Argument, stage.Create, c.id},
		stdio:  stdio,
		pidns:  pidns,
		flags:  cloneFlags(c.spec),
		cgroup: c.group,
		born:   born,
	}
	if born != nil && opts.JoinPID == nil {
		start.pidns = 0 // one with a path is among the others
	}
	p, err := c.rt.startStage(start)
	if err != nil {
		return err
	}
	c.init = p
	if !owner {
		// Nobody else ends what the container's init leaves behind.
		c.leftovers.Go(func() {
			<-p.Done()
			_ = c.group.Kill() // fails only when Destroy was faster
		})
	}
	if c.ownUsers {
		if err := c.settle(stdio); err != nil {
			return err
		}
	}
	if err := c.outside(trees, opts.JoinPID != nil); err != nil {
		return err
	}
	p.hooks = func() error { return c.createHooks(ctx) }
	job := stage.Job{Spec: c.spec, Names: opts.Names, Born: born != nil, Privileged: c.ownUsers}
	if c.ownUsers {
		spec, linux := *c.spec, *c.spec.Linux
		if linux.Sysctl, err = c.setSysctls(); err != nil {
			return err
		}
		spec.Linux = &linux
		job.Spec = &spec
	}
	if err := p.begin(ctx, &job, trees); err != nil {
		return err
	}
	if err := p.awaitReady(ctx); err != nil {
		return err
	}
	if c.ownUsers {
		if err := p.grant(c.spec.Process); err != nil {
			return err
		}
	}
	// Only now: the stage has more threads and uses more time and memory than
	// the container may be allowed.
	return c.group.Confine(c.spec.Linux.GetResources())
}

// begin gives a stage its job.
func (p *Process) begin(ctx context.Context, job *stage.Job, trees rootfs.Trees) error {
	for at := range trees {
		job.Trees = append(job.Trees, at)
	}
	sort.Stable(sort.IntSlice(job.Trees))
	message, err := job.Marshal()
	if err != nil {
		return fault.New(fault.Invalid, err.Error())
	}
	err = p.stage.configure(ctx, message)
	if err == nil && len(trees) > 0 {
		err = p.stage.sendTrees(ctx, trees, job.Trees)
	}
	if err != nil {
		return p.stageFailed(err)
	}
	return nil
}

// cloneFlags are the namespaces that the stage is born with. The cgroup
// namespace is made by the stage itself, and unless one is joined there is always
// one for mounts.
func cloneFlags(spec *ocipb.Spec) uintptr {
	flags := uintptr(unix.CLONE_NEWNS)
	if stage.JoinsMounts(spec) {
		flags = 0
	}
	for _, n := range spec.Linux.GetNamespaces() {
		if n.Path != "" {
			continue
		}
		switch flag, _ := stage.NamespaceFlag(n.Type); flag {
		case unix.CLONE_NEWPID, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS:
			flags |= uintptr(flag)
		}
	}
	return flags
}

// pidNamespace opens the pid namespace to join, or returns -1; owner says
// whether the container has one of its own.
func pidNamespace(spec *ocipb.Spec, opts Options) (fd int, owner bool, err error) {
	if opts.JoinPID != nil {
		fd, err := opts.JoinPID.init.process.PIDFD()
		if err != nil {
			return -1, false, fmt.Errorf("join the pid namespace of container %s: %w", opts.JoinPID.id, err)
		}
		return fd, false, nil
	}
	for _, n := range spec.Linux.GetNamespaces() {
		if n.Type != "pid" {
			continue
		}
		if n.Path == "" {
			return -1, true, nil
		}
		fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, false, fmt.Errorf("pid namespace %s: %w", n.Path, err)
		}
		if own, err := isOwn(fd); own || err != nil {
			unix.Close(fd)
			return -1, false, cmp.Or(err, specErrorf("linux.namespaces: path %q is the agent's own pid namespace", n.Path))
		}
		return fd, false, nil
	}
	return -1, false, nil
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

func withoutPIDNamespace(spec *ocipb.Spec) *ocipb.Spec {
	if spec.GetLinux() == nil {
		return spec
	}
	copied, linux := *spec, *spec.Linux
	linux.Namespaces = nil
	for _, n := range spec.Linux.Namespaces {
		if n.GetType() != "pid" {
			linux.Namespaces = append(linux.Namespaces, n)
		}
	}
	copied.Linux = &linux
	return &copied
}

// warn logs what a spec asks for and does not get.
func (r *Runtime) warn(id string, spec *ocipb.Spec) {
	r.warnProcess(id, spec.Process)
	if stage.JoinsMounts(spec) {
		r.config.Log.Warn("root, mounts, devices and paths of the spec have no effect in a mount namespace that is joined", "container", id)
	}
	if label := spec.Linux.GetMountLabel(); label != "" {
		r.config.Log.Warn("SELinux label of mounts has no effect", "container", id, "label", label)
	}
}

func (r *Runtime) warnProcess(id string, p *ocipb.Process) {
	if _, unknown := capability.New(p.Capabilities); len(unknown) > 0 {
		r.config.Log.Warn("unknown capabilities are ignored", "container", id, "capabilities", strings.Join(unknown, " "))
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
