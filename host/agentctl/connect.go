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

	"kata/api/agentpb"
	"kata/host/agentctl/command"
	"kata/host/agentctl/dial"
	"kata/host/agentctl/vm"
	"kata/host/config"
	"kata/host/process"
	"kata/host/sandbox"
	"kata/host/share"
)

// stateRoot is where running pods have their folders, as the shim makes them.
const stateRoot = "/run/kata"

// portAgent is the agent's port in a guest (design.md).
const portAgent = 1024

// stopTimeout bounds the end of our own machine.
const stopTimeout = 15 * time.Second

// connect runs the commands on an agent that runs already.
func (r *runner) connect(ctx context.Context) error {
	switch {
	case r.address == "" && r.sandbox == "":
		return usagef("connect: where the agent is, is missing: --server-address or --sandbox")
	case r.address != "" && r.sandbox != "":
		return usagef("connect: --server-address and --sandbox say the same thing twice")
	case r.sandbox != "":
		return r.connectSandbox(ctx)
	}
	address, err := dial.Parse(r.address)
	if err != nil {
		return &usageError{err}
	}
	conn, err := r.dial(ctx, address)
	if err != nil {
		return err
	}
	return r.run(ctx, conn, command.Config{Address: address.String()})
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

// connectSandbox runs the commands on the agent of a running pod. Its vsock is a
// device inside the shim, which passes connections on.
func (r *runner) connectSandbox(ctx context.Context) error {
	namespace, id, qualified := strings.Cut(r.sandbox, "/")
	if !qualified {
		namespace, id = "x", r.sandbox
	}
	for _, part := range []string{namespace, id} {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, filepath.Separator) {
			return usagef("connect: %q is not the id of a sandbox", r.sandbox)
		}
	}
	pod, err := sandbox.Lookup(stateRoot, r.sandbox)
	if err != nil {
		return err
	}
	address, err := dial.Parse(fmt.Sprintf("hvsock://%s:%d", pod.AgentSocket(), portAgent))
	if err != nil {
		return err
	}
	conn, err := r.dial(ctx, address)
	switch {
	case err == nil:
		return r.run(ctx, conn, command.Config{Address: "sandbox " + pod.String()})
	case !pod.Shim.Alive():
		return fmt.Errorf("sandbox %s: its shim (pid %s) has died: %w", pod, pod.Shim, err)
	}
	return fmt.Errorf("sandbox %s: %w", pod, err)
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
	machine, err := vm.Boot(ctx, vm.Config{
		Runtime: cfg, Share: r.share, Debug: r.level.Level < 0, Spawner: spawner, Log: r.log,
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
	if tree := machine.Tree(); tree != nil {
		session.Share = tree
		session.Storages = []*agentpb.Storage{
			{Driver: "virtio-fs", Source: share.Tag, Fstype: "virtiofs", MountPoint: share.GuestDir},
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
	h := &cfg.Hypervisor
	for _, o := range []struct {
		value string
		field *string
	}{{r.kernel, &h.Kernel}, {r.initrd, &h.Initrd}} {
		if o.value == "" {
			continue
		}
		if *o.field, err = filepath.Abs(o.value); err != nil {
			return nil, err
		}
	}
	if r.initrd != "" {
		h.Image = ""
	}
	return cfg, cfg.Check()
}
