package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/host/untrusted"
	"kata/host/vmm"
	"kata/host/vmm/qemu/qmp"
)

const (
	// defaultStop is Stop's patience when its context has no deadline.
	defaultStop = 5 * time.Second
	// killWait bounds the wait for a killed QEMU to be gone.
	killWait = 10 * time.Second
	// lingerWait is how long QEMU may live on after it closed its control
	// channel.
	lingerWait = 2 * time.Second
	// statusWait bounds the question why the guest was paused.
	statusWait = 2 * time.Second
	// undoWait bounds taking back what was half done when the caller's time was up.
	undoWait = 5 * time.Second
	// eventsKept is how many events may wait for the supervisor.
	eventsKept = 64
)

var (
	// errStopped is the cause of a Start that a Stop interrupts.
	errStopped = errors.New("machine was stopped")
	// errEnded is why a machine died when QEMU gives no reason.
	errEnded = errors.New("QEMU ended with status 0")
)

// Machine is a QEMU process and its guest.
type Machine struct {
	spec   vmm.Spec
	cfg    Config
	binary string
	argv   []string
	fds    descriptors
	slots  *slots
	// oneThread says that one thread emulates all vCPUs.
	oneThread bool
	// resizing is held by who changes the number of vCPUs or the size of memory.
	resizing turn
	spawner  *process.Spawner
	log      *slog.Logger

	tail *process.Tail
	done chan struct{}
	stop chan struct{} // closed by the first Stop

	mu      sync.Mutex // guards what follows; never held across I/O
	started bool
	stopped bool
	child   *process.Child // while it runs
	control *qmp.Client    // from negotiation on
	reason  string         // what QEMU said about its end
	err     error          // set before done closes
}

var (
	_ vmm.Machine = (*Machine)(nil)
	_ vmm.Checker = (*Machine)(nil)
)

// New checks the specification, the configuration and everything they name,
// and returns a machine that can be started. Nothing is held, so a machine
// that is never started needs no Stop.
func New(spec vmm.Spec, cfg Config, spawner *process.Spawner, log *slog.Logger) (*Machine, error) {
	cfg = cfg.withDefaults()
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.validate(&spec); err != nil {
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	binary, facts, err := preflight(&spec, &cfg, spawner)
	if err != nil {
		return nil, err
	}
	c := command{spec: spec, cfg: cfg, host: facts}
	argv := c.arguments()
	if err := c.slots.fits(); err != nil {
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	return &Machine{
		spec: spec, cfg: cfg, binary: binary, argv: argv, fds: c.fds, slots: c.slots, oneThread: facts.oneThread, resizing: newTurn(),
		spawner: spawner, log: log,
		tail: process.NewTail(consoleKept),
		done: make(chan struct{}), stop: make(chan struct{}),
	}, nil
}

// Start implements [vmm.Machine].
func (m *Machine) Start(ctx context.Context) error {
	m.mu.Lock()
	if m.started || m.stopped {
		m.mu.Unlock()
		return fmt.Errorf("start machine %s: it was started or stopped before", m.spec.ID)
	}
	m.started = true
	m.mu.Unlock()

	files, err := m.fds.open()
	defer closeFiles(files)
	if err != nil {
		err = fmt.Errorf("start machine %s: %w", m.spec.ID, err)
		m.end(err)
		return err
	}
	if m.cfg.Sandbox == sandboxOff {
		m.log.Warn("QEMU runs without its own seccomp filter, as the configuration says: a guest that takes QEMU over can make any system call",
			"key", "seccompsandbox", "value", sandboxOff)
	}
	for _, sandbox := range sandboxes(m.cfg.Sandbox) {
		weaker, err := m.try(ctx, sandbox, files)
		if !weaker {
			return err
		}
		m.log.Warn("QEMU's own seccomp filter is weakened: this build refuses it", "sandbox", sandbox, "error", err)
	}
	panic("unreachable: without -sandbox nothing is refused")
}

// try starts QEMU with an argument of -sandbox. It reports whether QEMU refused
// that, before there was a guest; then nothing is left of the attempt.
func (m *Machine) try(ctx context.Context, sandbox string, files []*os.File) (weaker bool, err error) {
	child, channels, err := m.launch(sandbox, files)
	if err != nil {
		m.end(err)
		return false, err
	}
	out := newConsole(channels.console, m.tail, channels.file)
	ctx, forget := context.WithCancelCause(ctx)
	defer forget(nil)
	go func() { // a Stop or QEMU's end must not wait for ctx
		select {
		case <-m.stop:
			forget(errStopped)
		case <-child.Done():
			// What it has said is to be read first: its channel ends by itself,
			// unless something of it holds that.
			held := time.NewTimer(lingerWait)
			defer held.Stop()
			select {
			case <-held.C:
				forget(errEnded)
			case <-m.stop:
				forget(errStopped)
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}()
	control, events, err := m.negotiate(ctx, channels.qmp)
	if err != nil {
		if sandbox != sandboxOff && m.cfg.Sandbox == "" && refusesSandbox(err, child) {
			out.Close()
			return true, child.Err()
		}
		return false, m.abandon(err, child, out)
	}
	if !m.publish(child, control) {
		control.Close()
		return false, m.abandon(errStopped, child, out)
	}
	go m.supervise(child, control, events, out)
	return false, nil
}

// publish makes a started machine one that Stop can ask to quit; it returns
// false when a Stop came first.
func (m *Machine) publish(child *process.Child, control *qmp.Client) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.child, m.control = child, control
	return true
}

// channels are this side's ends of what QEMU is given.
type channels struct {
	qmp     *net.UnixConn
	console *net.UnixConn
	file    *consoleFile
}

func (c *channels) close() {
	for _, conn := range []*net.UnixConn{c.qmp, c.console} {
		if conn != nil {
			conn.Close()
		}
	}
	c.file.Close()
}

// launch starts QEMU with its channels and the files that it inherits.
func (m *Machine) launch(sandbox string, files []*os.File) (_ *process.Child, ours channels, err error) {
	var theirs [2]*os.File
	defer func() {
		closeFiles(theirs[:])
		if err != nil {
			ours.close()
		}
	}()
	if ours.file, err = openConsoleFile(m.spec.ConsoleFile); err != nil {
		return nil, ours, err
	}
	if ours.qmp, theirs[0], err = socketPair("qmp"); err != nil {
		return nil, ours, err
	}
	if ours.console, theirs[1], err = socketPair("console"); err != nil {
		return nil, ours, err
	}
	args := m.argv
	if sandbox != sandboxOff {
		args = append([]string{"-sandbox", sandbox}, args...)
	}
	cmd := exec.Command(m.binary, args...)
	cmd.Dir = m.spec.Dir
	cmd.ExtraFiles = append(theirs[:], files...) // qmpFD, consoleFD, otherFDs
	m.log.Debug("start QEMU", "path", m.binary, "args", args)
	child, err := m.spawner.LaunchConfined(cmd, process.Confinement{OOMScoreAdj: m.spec.OOMScoreAdj})
	return child, ours, err
}

// negotiate returns the control channel of a QEMU whose guest runs, and its
// events from then on.
func (m *Machine) negotiate(ctx context.Context, conn *net.UnixConn) (*qmp.Client, *qmp.Subscription, error) {
	control, err := qmp.New(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	// First, so that nothing falls between the status and the events.
	events := control.Subscribe(eventsKept)
	if m.spec.Restore != "" {
		err = m.restore(ctx, control)
	}
	var status string
	if err == nil {
		status, err = queryStatus(ctx, control)
	}
	if err == nil && status != statusRunning {
		err = fmt.Errorf("the guest does not run: its status is %q", status)
	}
	if err != nil {
		control.Close()
		return nil, nil, err
	}
	m.log.Debug("QEMU runs", "version", control.Version().String())
	return control, events, nil
}

// abandon ends a start halfway: nothing of it is left when it returns.
func (m *Machine) abandon(cause error, child *process.Child, out *console) error {
	if hungUp(cause) {
		// QEMU goes by itself: why says more than that its channel closed.
		ctx, cancel := context.WithTimeout(context.Background(), lingerWait)
		if child.Wait(ctx) == nil {
			cause = cmp.Or(child.Err(), errEnded)
		}
		cancel()
	} else if said := child.Stderr(); said != "" {
		cause = fmt.Errorf("%w: %s", cause, untrusted.Line(said, untrusted.MaxLine))
	}
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	killErr := child.Kill(ctx)
	out.Close()
	err := fmt.Errorf("start machine %s: %w", m.spec.ID, errors.Join(cause, killErr))
	if tail := m.ConsoleTail(); tail != "" {
		err = withConsole(err, tail)
	}
	m.end(err)
	return err
}

// hungUp reports whether an error is that QEMU's control channel has closed, in the
// words of whoever noticed it: a reader, a writer, or who waits for the process.
func hungUp(err error) bool {
	for _, known := range [...]error{io.EOF, qmp.ErrClosed, errEnded, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// supervise follows a running QEMU to its end.
func (m *Machine) supervise(child *process.Child, control *qmp.Client, events *qmp.Subscription, out *console) {
	queue, disconnected := events.Events(), control.Done()
	var linger <-chan time.Time
	for running := true; running; {
		select {
		case <-child.Done():
			running = false
		case event, ok := <-queue:
			if !ok {
				queue = nil
				continue
			}
			m.handle(event, control)
		case <-disconnected:
			disconnected = nil
			timer := time.NewTimer(lingerWait)
			defer timer.Stop()
			linger = timer.C
		case <-linger:
			m.fail("QEMU closed its control channel and did not end")
		}
	}
	control.Close()
	for event := range events.Events() { // what it said last
		m.handle(event, control)
	}
	out.Close()
	m.end(m.deathError(child))
}

// handle notes what an event says about the machine's end. A guest that QEMU
// paused by itself (an internal error of KVM, say) never runs again: QEMU
// would sit there for ever.
func (m *Machine) handle(event qmp.Event, control *qmp.Client) {
	m.log.Debug("QEMU event", "event", event.Name, "data", string(event.Data))
	switch event.Name {
	case "SHUTDOWN":
		var data struct {
			Guest  bool   `json:"guest"`
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(event.Data, &data)
		m.setReason("QEMU ended because of " + data.Reason)
	case "GUEST_PANICKED":
		m.setReason("the guest panicked")
	case "STOP":
		ctx, cancel := context.WithTimeout(context.Background(), statusWait)
		defer cancel()
		status, err := queryStatus(ctx, control)
		if err == nil && isFatal(status) {
			m.fail(fmt.Sprintf("QEMU stopped the guest: %s", status))
		}
	}
}

// deathError says why QEMU ended, nil if it was asked to.
func (m *Machine) deathError(child *process.Child) error {
	m.mu.Lock()
	stopped, reason := m.stopped, m.reason
	m.mu.Unlock()
	if stopped {
		return nil
	}
	err := child.Err()
	switch {
	case reason != "" && err != nil:
		err = fmt.Errorf("%s (%w)", reason, err)
	case reason != "":
		err = errors.New(reason)
	case err == nil:
		err = errEnded
	}
	return withConsole(fmt.Errorf("machine %s died: %w", m.spec.ID, err), m.ConsoleTail())
}

func (m *Machine) setReason(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reason == "" {
		m.reason = reason
	}
}

// fail ends a machine that is beyond use; the supervisor notices.
func (m *Machine) fail(reason string) {
	m.setReason(reason)
	m.mu.Lock()
	child := m.child
	m.mu.Unlock()
	if child != nil {
		child.Abort()
	}
}

// end marks the machine as ended.
func (m *Machine) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.child, m.control = nil, nil
	if m.err = err; m.stopped {
		m.err = nil
	}
	close(m.done)
}
