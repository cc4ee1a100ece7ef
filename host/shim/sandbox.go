package shim

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/config"
	"kata/host/guestvm"
	"kata/host/hook"
	"kata/host/process"
	"kata/host/rootfs"
	"kata/host/sandbox"
	"kata/host/shim/bootstrap"
	"kata/host/shim/task"
	"kata/host/stdio"
)

// bootSandbox returns the Boot that runs real virtual machines.
func bootSandbox(env BootEnv) Boot {
	spawner := process.NewSpawner()
	return func(ctx context.Context, r task.BootRequest) (task.Sandbox, error) {
		cfg, err := loadConfig(env, r)
		if err != nil {
			return nil, err
		}
		s, err := sandbox.New(ctx, sandbox.Options{
			ID: r.ID, Namespace: env.Namespace, Bundle: r.Bundle, StateRoot: StateRoot, ConsoleRoot: ConsoleRoot, Pod: r.Pod,
			Guest: guestvm.FromConfig(cfg.Machine, cfg.Driver, cfg.FileShare, cfg.Agent, env.Log),
			Parts: guestvm.HostFromConfig(cfg.Driver, cfg.FileShare, spawner, env.Log), Spawner: spawner, Hooks: hook.Runner{Mounts: env.HostMounts},
			Agent: sandbox.Agent{
				BootTimeout: cfg.Agent.DialTimeout, CreateTimeout: cfg.Runtime.CreateContainerTimeout,
				KillTimeout: cfg.Runtime.KillTimeout,
				HookPath:    cfg.Agent.GuestHookPath, KernelModules: cfg.Agent.KernelModules,
				DropSeccomp: cfg.Runtime.DisableGuestSeccomp,
			},
			OOM: r.OOM, Log: env.Log,
		})
		if err != nil {
			return nil, err
		}
		return sandboxAdapter{s}, nil
	}
}

func loadConfig(env BootEnv, r task.BootRequest) (*config.Config, error) {
	cfg, err := config.Load(config.Sources{
		Annotation: r.Pod.Annotations[config.AnnotationPath],
		Option:     r.ConfigPath,
		Env:        os.Getenv(config.EnvPath),
	})
	if err != nil {
		return nil, fmt.Errorf("load the configuration: %w", err)
	}
	if cfg.Runtime.Debug {
		env.Debug()
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("check the configuration: %w", err)
	}
	for _, w := range cfg.Warnings {
		env.Log.Warn("configuration", "file", cfg.Path, "warning", w)
	}
	env.Log.Debug("configuration loaded", "file", cfg.Path)
	return cfg, nil
}

func cleanupSandbox(log *slog.Logger) bootstrap.Cleanup {
	return func(ctx context.Context, id, bundle string) error {
		return sandbox.Cleanup(ctx, sandbox.CleanupOptions{StateRoot: StateRoot, ID: id, Bundle: bundle, Log: log})
	}
}

// The adapters give host/sandbox's types the interfaces of task, which differ
// in nothing but the names of results.
type (
	sandboxAdapter   struct{ *sandbox.Sandbox }
	containerAdapter struct{ *sandbox.Container }
	processAdapter   struct{ *sandbox.Process }
)

func (s sandboxAdapter) CreateContainer(ctx context.Context, r task.ContainerRequest) (task.Container, error) {
	o := sandbox.ContainerOptions{ID: r.ID, Bundle: r.Bundle, Spec: r.Spec, Stdio: r.Stdio}
	for _, m := range r.Rootfs {
		o.Rootfs = append(o.Rootfs, rootfs.Mount(m))
	}
	c, err := s.Sandbox.CreateContainer(ctx, o)
	if err != nil {
		return nil, err
	}
	return containerAdapter{c}, nil
}

func (c containerAdapter) Init() task.Process { return processAdapter{c.Container.Init()} }

func (c containerAdapter) Exec(ctx context.Context, execID string, spec *specs.Process, io stdio.Config) (task.Process, error) {
	p, err := c.Container.Exec(ctx, execID, spec, io)
	if err != nil {
		return nil, err
	}
	return processAdapter{p}, nil
}

func (p processAdapter) Exit() task.Exit { return task.Exit(p.Process.Exit()) }
