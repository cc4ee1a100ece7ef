package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// outputGrace is how long a finished ctr's output pipes may stay open.
const outputGrace = 5 * time.Second

// Result is what a finished ctr left.
type Result struct {
	Args           []string
	Stdout, Stderr string
	// Code is ctr's exit status, for run and exec that of the process; -1 when
	// ctr did not run or was killed.
	Code int
	// Err is nil when Code is 0.
	Err error
	// Elapsed is how long ctr ran.
	Elapsed time.Duration
}

// Failure describes the result as an error for a reader who wants to repeat
// the command.
func (r Result) Failure() error {
	return fmt.Errorf("ctr %s: exit status %d: %s", strings.Join(r.Args, " "), r.Code, strings.TrimSpace(r.Stderr))
}

// Container is what `ctr run` gets told.
type Container struct {
	ID, Image, Runtime string
	// Flags go in front of the image, Args are the command.
	Flags, Args []string
	// Stdin is /dev/null when nil.
	Stdin io.Reader
	// Stdout and Stderr are collected when nil.
	Stdout, Stderr io.Writer
}

func (c Container) arguments(n *Node, flags ...string) []string {
	args := append([]string{"run"}, flags...)
	args = append(args, "--fifo-dir", n.fifoDir())
	if c.Runtime != "" {
		args = append(args, "--runtime", c.Runtime)
	}
	args = append(args, c.Flags...)
	if c.Image != "" { // with --config there is none
		args = append(args, c.Image)
	}
	args = append(args, c.ID)
	return append(args, c.Args...)
}

// Ctr runs `ctr args...` against the node.
func (n *Node) Ctr(ctx context.Context, args ...string) Result {
	return n.begin(ctx, Container{}, args).Wait()
}

// BeginEvents is `ctr events` in the background, once it has subscribed; the
// caller stops it.
func (n *Node) BeginEvents(ctx context.Context) (*Running, error) {
	r := n.begin(ctx, Container{}, []string{"events"})
	// It does not say when it listens, so make events until it prints one.
	err := Await(ctx, "ctr events", func() (bool, error) {
		if c := n.Ctr(ctx, "namespaces", "label", Namespace, fmt.Sprintf("probe=%d", time.Now().UnixNano())); c.Err != nil {
			return false, c.Failure()
		}
		return r.Stdout.String() != "", nil
	})
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// Run is `ctr run --rm`: it returns when the container has gone.
func (n *Node) Run(ctx context.Context, c Container) Result {
	return n.Begin(ctx, c).Wait()
}

// Begin is Run in the background.
func (n *Node) Begin(ctx context.Context, c Container) *Running {
	return n.begin(ctx, c, c.arguments(n, "--rm"))
}

// Detach is `ctr run --detach`: it returns when the container has started. Its
// output goes nowhere; who starts it calls Remove.
func (n *Node) Detach(ctx context.Context, c Container) Result {
	return n.begin(ctx, c, c.arguments(n, "--detach", "--null-io")).Wait()
}

// DetachWithStreams is Detach, but the output waits for an attach.
func (n *Node) DetachWithStreams(ctx context.Context, c Container) Result {
	return n.begin(ctx, c, c.arguments(n, "--detach")).Wait()
}

// BeginAttach is `ctr tasks attach` in the background; a nil stdin is /dev/null.
func (n *Node) BeginAttach(ctx context.Context, id string, stdin io.Reader) *Running {
	return n.begin(ctx, Container{Stdin: stdin}, []string{"tasks", "attach", id})
}

// Exec is `ctr tasks exec`.
func (n *Node) Exec(ctx context.Context, id, execID string, args ...string) Result {
	return n.BeginExec(ctx, Container{ID: id, Args: args}, execID).Wait()
}

// BeginExec runs c.Args in the running container c.ID, in the background;
// c.Flags are those of `ctr tasks exec`.
func (n *Node) BeginExec(ctx context.Context, c Container, execID string) *Running {
	args := []string{"tasks", "exec", "--exec-id", execID, "--fifo-dir", n.fifoDir()}
	args = append(args, c.Flags...)
	args = append(args, c.ID)
	return n.begin(ctx, c, append(args, c.Args...))
}

// Running is a ctr in the background.
type Running struct {
	// Stdout and Stderr hold what came so far, unless the container was given
	// writers of its own.
	Stdout, Stderr *Output

	args   []string
	cmd    *exec.Cmd
	begun  time.Time
	done   chan struct{}
	result Result
	// keepOutput is set when the output may outlast ctr: a terminal's.
	keepOutput bool
}

func (n *Node) command(ctx context.Context, args []string) *exec.Cmd {
	all := append([]string{"--address", n.socket(), "--namespace", Namespace}, args...)
	cmd := exec.CommandContext(ctx, n.opts.Ctr, all...)
	cmd.WaitDelay = outputGrace
	return cmd
}

func (n *Node) begin(ctx context.Context, c Container, args []string) *Running {
	r := &Running{Stdout: new(Output), Stderr: new(Output), args: args, done: make(chan struct{})}
	r.cmd = n.command(ctx, args)
	r.cmd.Stdin = c.Stdin
	r.cmd.Stdout, r.cmd.Stderr = io.Writer(r.Stdout), io.Writer(r.Stderr)
	if c.Stdout != nil {
		r.cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		r.cmd.Stderr = c.Stderr
	}
	r.start()
	return r
}

func (r *Running) start() {
	r.begun = time.Now()
	err := r.cmd.Start()
	if err != nil {
		r.finish(err)
		return
	}
	go func() { r.finish(r.cmd.Wait()) }()
}

func (r *Running) finish(err error) {
	r.result = Result{
		Args:    r.args,
		Stdout:  r.Stdout.String(),
		Stderr:  r.Stderr.String(),
		Err:     err,
		Elapsed: time.Since(r.begun),
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.result.Code = exit.ExitCode()
	case err != nil:
		r.result.Code = -1
	}
	close(r.done)
	if !r.keepOutput {
		r.Stdout.end()
		r.Stderr.end()
	}
}

// StartShim calls a shim's start in the bundle directory, as containerd does.
func (n *Node) StartShim(ctx context.Context, binary, id, bundle string) Result {
	r := &Running{Stdout: new(Output), Stderr: new(Output), done: make(chan struct{})}
	for _, dir := range n.opts.ShimDirs {
		path := filepath.Join(dir, binary)
		if _, err := os.Stat(path); err == nil {
			binary = path
			break
		}
	}
	r.args = []string{"-namespace", Namespace, "-address", n.socket(), "-publish-binary", n.opts.Containerd, "-id", id, "start"}
	r.cmd = exec.CommandContext(ctx, binary, r.args...)
	r.cmd.Dir, r.cmd.Env = bundle, append(n.environment(), "TTRPC_ADDRESS="+n.socket()+".ttrpc")
	r.cmd.Stdout, r.cmd.Stderr = r.Stdout, r.Stderr
	r.start()
	return r.Wait()
}

// Done is closed when ctr has exited.
func (r *Running) Done() <-chan struct{} { return r.done }

// Wait returns when ctr has exited and its output is complete.
func (r *Running) Wait() Result {
	<-r.done
	return r.result
}

// Stop kills ctr itself and waits for its end.
func (r *Running) Stop() {
	_ = r.cmd.Process.Kill() // an error says that it has ended
	r.Wait()
}

// Status is the state of a container's task as `ctr tasks ls` shows it
// (RUNNING, STOPPED, PAUSED…), "" when there is no task.
func (n *Node) Status(ctx context.Context, id string) (string, error) {
	r := n.Ctr(ctx, "tasks", "ls")
	if r.Err != nil {
		return "", r.Failure()
	}
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2], nil
		}
	}
	return "", nil
}

// Remove kills and deletes a container whatever state it is in.
func (n *Node) Remove(ctx context.Context, id string) error {
	status, err := n.Status(ctx, id)
	if err != nil {
		return err
	}
	if status != "" {
		if r := n.Ctr(ctx, "tasks", "rm", "--force", id); r.Err != nil {
			return r.Failure()
		}
	}
	if r := n.Ctr(ctx, "containers", "rm", id); r.Err != nil {
		return r.Failure()
	}
	return nil
}

// RemoveAll removes every container of the node, so that one failed test does
// not spoil the next.
func (n *Node) RemoveAll(ctx context.Context) error {
	r := n.Ctr(ctx, "containers", "ls", "--quiet")
	if r.Err != nil {
		return r.Failure()
	}
	var errs []error
	for _, id := range strings.Fields(r.Stdout) {
		errs = append(errs, n.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// Metrics returns `ctr tasks metrics`: a name and a value on each line.
func (n *Node) Metrics(ctx context.Context, id string) (map[string]string, error) {
	r := n.Ctr(ctx, "tasks", "metrics", id)
	if r.Err != nil {
		return nil, r.Failure()
	}
	values := make(map[string]string)
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) >= 2 {
			values[f[0]] = f[1]
		}
	}
	return values, nil
}

// Terminal is a pseudo terminal that ctr runs on.
type Terminal struct {
	*Running
	master *os.File
	copied chan struct{}
}

// BeginTerminal is Begin with -t on a terminal of the given size. What the
// terminal shows is in Stdout.
func (n *Node) BeginTerminal(ctx context.Context, c Container, rows, cols uint16) (*Terminal, error) {
	master, slave, err := openPTY(rows, cols)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	r := &Running{Stdout: new(Output), Stderr: new(Output), done: make(chan struct{})}
	r.args, r.keepOutput = c.arguments(n, "--rm", "--tty"), true
	r.cmd = n.command(ctx, r.args)
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = slave, slave, slave
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	t := &Terminal{Running: r, master: master, copied: make(chan struct{})}
	r.start()
	go func() {
		defer close(t.copied)
		defer r.Stdout.end()
		_, _ = io.Copy(r.Stdout, master) // ends with EIO when ctr has gone
	}()
	return t, nil
}

// Type writes to the terminal as a keyboard would.
func (t *Terminal) Type(text string) error {
	_, err := t.master.WriteString(text)
	return err
}

// Resize changes the terminal's size; the kernel tells ctr by SIGWINCH.
func (t *Terminal) Resize(rows, cols uint16) error { return resizePTY(t.master, rows, cols) }

// Wait returns when ctr has exited, and closes the terminal.
func (t *Terminal) Wait() Result {
	r := t.Running.Wait()
	<-t.copied
	_ = t.master.Close() // nothing is buffered on a terminal's master
	r.Stdout = t.Stdout.String()
	return r
}

// RunOnTerminal runs a command on a terminal of its own and returns how it ended,
// with all that came out as Stdout.
func RunOnTerminal(cmd *exec.Cmd) Result {
	r := Result{Args: cmd.Args[1:], Code: -1}
	master, slave, err := openPTY(24, 80)
	if err != nil {
		r.Err = err
		return r
	}
	defer master.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	read := make(chan string, 1)
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		r.Err = err
		return r
	}
	go func() {
		b, _ := io.ReadAll(master) // its end is EIO
		read <- string(b)
	}()
	r.Err = cmd.Wait()
	r.Code, r.Stdout = cmd.ProcessState.ExitCode(), <-read
	return r
}
