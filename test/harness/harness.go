// Package harness runs a private containerd and drives it with ctr, for the
// end-to-end tests, the benchmarks and the demo.
//
// It is not a containerd client: what it does, a person can do at a terminal
// with the same commands, which is why failures print the command line.
//
// Life cycle: Start makes a directory with a short path, writes containerd's
// configuration into it and starts the daemon there, with its own root, state
// and sockets; the system's containerd is neither used nor disturbed. Import
// loads an image made by WriteImage. Run, Begin and Ctr run ctr. Mark and
// Leaks compare what is on the host before and after. Close stops the daemon,
// kills what is still alive of what it started, by pid, and removes the
// directory.
package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"kata/test/pace"
)

// The runtimes that the tests know, by the names that ctr takes.
const (
	Kata = "io.containerd.kata.v2"
	Runc = "io.containerd.runc.v2"
)

// Namespace is the containerd namespace of everything that a Node runs.
const Namespace = "kata-test"

// Where nodes have their directories: unix socket paths end at 107 bytes, and
// shims nest theirs deep.
const (
	parentDir = "/tmp"
	dirPrefix = "kata-t"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// Options say how to start a Node. The zero value runs the distribution's
// containerd and finds shims in PATH.
type Options struct {
	// Containerd and Ctr are the programs; "" means the ones in PATH.
	Containerd, Ctr string
	// ConfigVersion is that of containerd's configuration file: 2 for
	// containerd 1.x, 3 for 2.x. 0 means 2.
	ConfigVersion int
	// ShimDirs are put in front of PATH, so that containerd finds the shims in
	// them.
	ShimDirs []string
	// KataConfig is the content of the configuration.toml that the kata shim is
	// told of by KATA_CONF_FILE.
	KataConfig string
	// Env is added to the daemon's environment.
	Env []string
	// Enter, when set, is a shell script that prepares a private mount
	// namespace for the daemon: what it mounts, only the daemon and its shims
	// see.
	Enter string
}

// Node is a running containerd with its own root, state and sockets.
type Node struct {
	opts   Options
	dir    string
	daemon *exec.Cmd
	exited chan struct{}

	mu  sync.Mutex
	ids []string // that were handed out
}

// Start starts a containerd and waits until it serves. The caller closes it.
func Start(ctx context.Context, opts Options) (*Node, error) {
	opts = opts.withDefaults()
	dir, err := os.MkdirTemp(parentDir, dirPrefix)
	if err != nil {
		return nil, fmt.Errorf("make the node's directory: %w", err)
	}
	n := &Node{opts: opts, dir: dir}
	// The root of a user namespace is nobody special to its root file system.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := n.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := n.startDaemon(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (o Options) withDefaults() Options {
	if o.Containerd == "" {
		o.Containerd = "containerd"
	}
	if o.Ctr == "" {
		o.Ctr = "ctr"
	}
	if o.ConfigVersion == 0 {
		o.ConfigVersion = 2
	}
	return o
}

// Dir is the node's directory. It goes away with Close.
func (n *Node) Dir() string { return n.dir }

// LogFile holds what containerd and its shims have logged.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "containerd.log") }

// ConfigFile is the configuration.toml of the kata shim.
func (n *Node) ConfigFile() string { return filepath.Join(n.dir, "configuration.toml") }

func (n *Node) socket() string  { return filepath.Join(n.dir, "c.sock") }
func (n *Node) tempDir() string { return filepath.Join(n.dir, "tmp") }
func (n *Node) fifoDir() string { return filepath.Join(n.dir, "fifo") }

func (n *Node) prepare() error {
	for _, d := range []string{n.tempDir(), n.fifoDir()} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("prepare the node: %w", err)
		}
	}
	if err := n.writeOwner(); err != nil {
		return fmt.Errorf("prepare the node: %w", err)
	}
	for file, text := range map[string]string{
		filepath.Join(n.dir, "config.toml"): containerdConfig(n.dir, n.opts.ConfigVersion),
		n.ConfigFile():                      n.opts.KataConfig,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return fmt.Errorf("prepare the node: %w", err)
		}
	}
	return nil
}

// startDaemon starts containerd and waits until its API answers.
func (n *Node) startDaemon(ctx context.Context) error {
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	defer log.Close()

	args := []string{n.opts.Containerd, "--config", filepath.Join(n.dir, "config.toml")}
	if n.opts.Enter != "" {
		args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", n.opts.Enter + "\nexec \"$@\"", "sh"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = n.environment()
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: an interrupt at the terminal is for the test, which
	// then stops the daemon in order. A test that dies takes the daemon along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	exited := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// Pdeathsig comes when the starting thread ends (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit itself is what is awaited; the log says why
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	n.daemon, n.exited = cmd, exited

	ctx, cancel := context.WithTimeout(ctx, pace.Of(startTimeout))
	defer cancel()
	err = Await(ctx, "containerd to serve", func() (bool, error) {
		select {
		case <-exited:
			return false, fmt.Errorf("containerd exited: %s", lastLines(n.LogFile(), 5))
		default:
		}
		return n.Ctr(ctx, "version").Err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	return nil
}

func (n *Node) environment() []string {
	env := append(os.Environ(), "TMPDIR="+n.tempDir())
	path := append(slices.Clone(n.opts.ShimDirs), os.Getenv("PATH"))
	env = append(env, "PATH="+strings.Join(path, ":"))
	env = append(env, "KATA_CONF_FILE="+n.ConfigFile())
	return append(env, n.opts.Env...)
}

// Pid is containerd's process id.
func (n *Node) Pid() int { return n.daemon.Process.Pid }

// Restart kills containerd without a warning and starts it again on the same
// root and state: shims and their tasks live on.
func (n *Node) Restart(ctx context.Context) error {
	return n.RestartAfter(ctx, func() error { return nil })
}

// RestartAfter is Restart with something done while containerd is away.
func (n *Node) RestartAfter(ctx context.Context, meanwhile func() error) error {
	if err := n.daemon.Process.Kill(); err != nil {
		return fmt.Errorf("kill containerd: %w", err)
	}
	<-n.exited
	err := meanwhile()
	return errors.Join(err, n.startDaemon(ctx))
}

// Close stops containerd and removes every trace of the node.
func (n *Node) Close() error {
	var errs []error
	if n.daemon != nil {
		errs = append(errs, n.stopDaemon())
	}
	errs = append(errs, n.killLeftovers(), n.unmountAll(), n.removeState(), removeCgroups(), os.RemoveAll(n.dir))
	return errors.Join(errs...)
}

// removeCgroups removes the namespace's cgroups, which runc makes as parents of
// its containers' and leaves. One that another node still uses stays.
func removeCgroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, err := filepath.Glob(pattern + Namespace)
		errs = append(errs, err)
		for _, dir := range dirs {
			err := syscall.Rmdir(dir)
			if err != nil && err != syscall.ENOENT && err != syscall.EBUSY {
				errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
			}
		}
	}
	return errors.Join(errs...)
}

// CleanUp closes the nodes of test processes that died without doing so, and
// returns their directories.
func CleanUp() ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(parentDir, dirPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var cleaned []string
	var errs []error
	for _, dir := range dirs {
		if ownerLives(dir) {
			continue
		}
		cleaned = append(cleaned, dir)
		errs = append(errs, (&Node{dir: dir}).Close())
	}
	return cleaned, errors.Join(errs...)
}

// ownerLives says whether the process that made the node's directory is there.
func ownerLives(dir string) bool {
	var owner Process
	b, err := os.ReadFile(filepath.Join(dir, "owner"))
	if err != nil {
		return false
	}
	if _, err := fmt.Sscan(string(b), &owner.PID, &owner.started); err != nil {
		return false
	}
	return owner.Alive()
}

// writeOwner leaves for CleanUp which process the node belongs to.
func (n *Node) writeOwner() error {
	self, ok := readProcess(os.Getpid())
	if !ok {
		return errors.New("read this process's entry in /proc")
	}
	return os.WriteFile(filepath.Join(n.dir, "owner"), fmt.Appendln(nil, self.PID, self.started), 0o600)
}

// removeState removes what shims have left under /run/kata of the node's
// containers.
func (n *Node) removeState() error {
	dirs, err := filepath.Glob(filepath.Join("/run/kata", n.mark()+"-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

func (n *Node) stopDaemon() error {
	if err := n.daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop containerd: %w", err)
	}
	timer := time.NewTimer(pace.Of(stopTimeout))
	defer timer.Stop()
	select {
	case <-n.exited:
		return nil
	case <-timer.C:
	}
	if err := n.daemon.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill containerd: %w", err)
	}
	<-n.exited
	return fmt.Errorf("containerd did not stop within %v of SIGTERM", stopTimeout)
}

// killLeftovers kills what still runs on behalf of this node: what it finds,
// Leaks has reported before.
func (n *Node) killLeftovers() error {
	var errs []error
	for _, p := range n.processes() {
		if err := p.Kill(); err != nil {
			errs = append(errs, fmt.Errorf("kill %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// unmountAll unmounts what is left below the node's directory, deepest first.
func (n *Node) unmountAll() error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		if !hasToken(points[i], n.mark()) {
			continue
		}
		if err := syscall.Unmount(points[i], syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", points[i], err))
		}
	}
	return errors.Join(errs...)
}

// mark stands in everything that is made for the node: in its directory's name
// and in the ids of its containers.
func (n *Node) mark() string { return filepath.Base(n.dir) }

// NewID returns an id that no other container on this machine has. Everything
// that is made for a container carries its id, so that Leaks finds it.
func (n *Node) NewID(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := fmt.Sprintf("%s-%s-%d", n.mark(), name, len(n.ids)+1)
	n.ids = append(n.ids, id)
	return id
}

func (n *Node) idsSoFar() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.ids)
}

// Import loads an image into the node's content store and unpacks it.
func (n *Node) Import(ctx context.Context, image Image) error {
	path := filepath.Join(n.tempDir(), "image.tar")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("import %s: %w", image.Ref, err)
	}
	defer os.Remove(path)
	err = WriteImage(f, image)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("import %s: %w", image.Ref, err)
	}
	if r := n.Ctr(ctx, "images", "import", path); r.Err != nil {
		return fmt.Errorf("import %s: %w", image.Ref, r.Failure())
	}
	return nil
}

// CopyLog copies containerd's log, with what the shims wrote, to w.
func (n *Node) CopyLog(w io.Writer) error {
	f, err := os.Open(n.LogFile())
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// lastLines returns the end of a file on one line, for error messages.
func lastLines(path string, count int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	return strings.Join(lines, " | ")
}
