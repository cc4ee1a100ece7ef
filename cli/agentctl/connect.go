package agentctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/cli/agentctl/command"
	"kata/cli/agentctl/console"
	"kata/cli/agentctl/dial"
	"kata/cli/agentctl/vm"
	"kata/host/config"
	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/sandbox"
)

// stateRoot is where running pods have their folders, as the shim makes them.
const stateRoot = "/run/kata"

// stopTimeout bounds the end of our own machine.
const stopTimeout = 15 * time.Second

// connect runs the commands on an agent that runs already.
func (r *runner) connect(ctx context.Context) error {
	conn, name, err := r.reach(ctx, "connect", api.PortAgent)
	if err != nil {
		return err
	}
	return r.run(ctx, conn, command.Config{Address: name})
}

// console lets a person type into a shell in a guest.
func (r *runner) console(ctx context.Context) error {
	conn, name, err := r.reach(ctx, "console", api.PortConsole)
	if err != nil {
		if usage := (*usageError)(nil); errors.As(err, &usage) {
			return err
		}
		return fmt.Errorf("debug console (is debug_console_enabled set?): %w", err)
	}
	if err := console.Relay(ctx, r.program.Stdin, r.program.Stdout, conn); err != nil {
		return fmt.Errorf("debug console at %s: %w", name, err)
	}
	return nil
}

// reach connects to where the flags of a verb say, and names that for people. The
// port is for a pod, an address has its own.
func (r *runner) reach(ctx context.Context, verb string, port int) (conn io.ReadWriteCloser, name string, err error) {
	switch {
	case r.address == "" && r.sandbox == "":
		return nil, "", usagef("%s: where the agent is, is missing: --server-address or --sandbox", verb)
	case r.address != "" && r.sandbox != "":
		return nil, "", usagef("%s: --server-address and --sandbox say the same thing twice", verb)
	case r.sandbox != "":
		return r.reachSandbox(ctx, verb, port)
	}
	address, err := dial.Parse(r.address)
	if err != nil {
		return nil, "", &usageError{err}
	}
	conn, err = r.dial(ctx, address)
	return conn, address.String(), err
}

// dial connects; the time that a call may take is this step's too.
func (r *runner) dial(ctx context.Context, address dial.Address) (io.ReadWriteCloser, error) {
	if limit := time.Duration(r.timeout); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
		defer cancel()
	}
	return address.Dial(ctx)
}

// reachSandbox connects to the agent of a running pod. Its vsock is a device
// inside the shim, which passes connections on.
func (r *runner) reachSandbox(ctx context.Context, verb string, port int) (conn io.ReadWriteCloser, name string, err error) {
	namespace, id, qualified := strings.Cut(r.sandbox, "/")
	if !qualified {
		namespace, id = "x", r.sandbox
	}
	for _, part := range []string{namespace, id} {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, filepath.Separator) {
			return nil, "", usagef("%s: %q is not the id of a sandbox", verb, r.sandbox)
		}
	}
	pod, err := sandbox.Lookup(stateRoot, r.sandbox)
	if err != nil {
		return nil, "", err
	}
	address, err := dial.Parse(fmt.Sprintf("hvsock://%s:%d", pod.AgentSocket(), port))
	if err != nil {
		return nil, "", err
	}
	conn, err = r.dial(ctx, address)
	switch {
	case err == nil:
		return conn, "sandbox " + pod.String(), nil
	case !pod.Shim.Alive():
		return nil, "", fmt.Errorf("sandbox %s: its shim (pid %s) has died: %w", pod, pod.Shim, err)
	}
	return nil, "", fmt.Errorf("sandbox %s: %w", pod, err)
}

// bootAndRun runs the commands on the agent of a machine of our own.
func (r *runner) bootAndRun(ctx context.Context) (err error) {
	if r.share {
		if err := vm.Isolate(); err != nil {
			return fmt.Errorf("vm --share: %w", err)
		}
	}
	cfg, err := r.runtimeConfig()
	if err != nil {
		return err
	}
	spawner := process.NewSpawner()
	defer spawner.Close()
	guest := guestvm.FromConfig(cfg.Machine, cfg.Driver, cfg.FileShare, cfg.Agent, r.log)
	guest.Share, guest.AgentDebug, guest.DebugConsole = r.share, r.level.Level < 0, false
	machine, err := vm.Boot(ctx, vm.Config{
		Guest: guest, Timeout: cfg.Agent.DialTimeout,
		Parts: guestvm.HostFromConfig(cfg.Driver, cfg.FileShare, spawner, r.log),
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, machine.Stop(ctx))
	}()
	conn, err := machine.Dial(ctx)
	if err != nil {
		return err
	}
	session := command.Config{Address: machine.Address()}
	if files := machine.Files(); files != nil {
		session.Share = files
		session.Storages = []*agentpb.Storage{
			{Driver: "virtio-fs", Source: api.ShareTag, Fstype: "virtiofs", MountPoint: api.GuestShare},
		}
	}
	return r.run(ctx, conn, session)
}

// runtimeConfig is the configuration with the flags' values in place of its own.
func (r *runner) runtimeConfig() (*config.Config, error) {
	cfg, err := config.Load(config.Sources{Option: r.config, Env: os.Getenv(config.EnvPath)})
	if err != nil {
		return nil, err
	}
	m := &cfg.Machine
	for _, o := range []struct {
		value string
		field *string
	}{{r.kernel, &m.Kernel}, {r.initrd, &m.Initrd}} {
		if o.value == "" {
			continue
		}
		if *o.field, err = filepath.Abs(o.value); err != nil {
			return nil, err
		}
	}
	if r.initrd != "" {
		m.Image = ""
	}
	if cfg.Path == "" {
		r.builtGuest(m)
	}
	return cfg, cfg.Check()
}

// builtGuest takes the guest of the repository that the program was built in, if
// it is there and nobody named another.
func (r *runner) builtGuest(m *config.Machine) {
	program, err := os.Executable()
	if err != nil {
		return
	}
	built := func(name string) (path string, ok bool) {
		path = filepath.Join(filepath.Dir(program), "..", "build", "guest", name)
		info, err := os.Stat(path)
		return path, err == nil && info.Mode().IsRegular()
	}
	kernel, ok := built("vmlinux")
	if ok && m.Kernel == "" {
		m.Kernel = kernel
	}
	if initrd, ok := built("kata-initrd.img"); ok && m.Initrd == "" && m.Image == "" {
		m.Initrd = initrd
	}
}
