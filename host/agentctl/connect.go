package agentctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"kata/host/share"
)

// stateRoot is where running pods have their folders, as the shim makes them.
const stateRoot = "/run/kata"

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
		return r.connectSandbox()
	}
	address, err := dial.Parse(r.address)
	if err != nil {
		return &usageError{err}
	}
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if limit := time.Duration(r.timeout); limit > 0 {
		bounded, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	}
	conn, err := address.Dial(bounded)
	cancel()
	if err != nil {
		return err
	}
	return r.run(ctx, conn, command.Config{Address: address.String()})
}

// connectSandbox says why the agent of a pod cannot be reached yet: its vsock is
// a device inside the shim, and only the shim can connect to it.
func (r *runner) connectSandbox() error {
	if strings.ContainsRune(r.sandbox, filepath.Separator) || r.sandbox == "." || r.sandbox == ".." {
		return usagef("connect: %q is not the id of a sandbox", r.sandbox)
	}
	dir := filepath.Join(stateRoot, r.sandbox)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox %s: there is no such pod on this host (%s is missing)", r.sandbox, dir)
	} else if err != nil {
		return fmt.Errorf("sandbox %s: %w", r.sandbox, err)
	}
	return fmt.Errorf("sandbox %s: its agent cannot be reached yet: only its shim can connect to the guest, "+
		"and the shim serves no management socket that would pass the connection on", r.sandbox)
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
