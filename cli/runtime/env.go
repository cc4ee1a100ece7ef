package runtime

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/BurntSushi/toml"

	"kata/host/config"
	"kata/host/version"
	"kata/host/vmm/accel"
)

const (
	ociVersion = "1.3.0"
	// formatVersion is the version of env's fields, upstream's at 2.0.0.
	formatVersion = "1.0.25"
)

// env is what the verb prints. Names are upstream's.
type env struct {
	Meta       struct{ Version string }
	Runtime    runtimeEnv
	Hypervisor hypervisorEnv
	Image      struct{ Path string }
	Kernel     struct{ Path, Parameters string }
	Initrd     struct{ Path string }
	Agent      struct{ Debug bool }
	Host       hostEnv
}

type runtimeEnv struct {
	Debug               bool
	DisableGuestSeccomp bool
	Version             struct {
		OCI     string
		Version struct{ Semver, Commit string }
	}
	Config struct{ Path string }

	// AnnotationConfigFolders is an addition of ours.
	AnnotationConfigFolders []string
}

type hypervisorEnv struct {
	Path, Version, MachineType, SharedFS, VirtioFSDaemon string

	// Additions of ours.
	Accelerator, AcceleratorReason  string
	DefaultVCPUs                    int
	DefaultMemoryMiB, StopTimeoutMS int64
	Debug                           bool
}

func (c *command) env(ctx context.Context, args []string) error {
	asJSON := false
	f := c.flags("kata-runtime env")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	if err := c.verbFlags(f, args); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	cfg.Missing() // fills paths; what is not there is check's to say
	e := describe(cfg)
	if err := describeAccelerator(ctx, cfg, &e); err != nil {
		return err
	}
	e.Hypervisor.Version = programVersion(ctx, cfg.Driver.Path)
	if e.Host, err = describeHost(e.Hypervisor.Accelerator); err != nil {
		return fmt.Errorf("describe the host: %w", err)
	}
	if asJSON {
		out := json.NewEncoder(c.stdout)
		out.SetIndent("", "  ")
		return out.Encode(e)
	}
	return toml.NewEncoder(c.stdout).Encode(e)
}

func describe(cfg *config.Config) env {
	var e env
	m, d, f := cfg.Machine, cfg.Driver, cfg.FileShare
	e.Meta.Version = formatVersion
	e.Runtime.Debug = cfg.Runtime.Debug
	e.Runtime.DisableGuestSeccomp = cfg.Runtime.DisableGuestSeccomp
	e.Runtime.Version.OCI = ociVersion
	e.Runtime.Version.Version.Semver = version.Version
	e.Runtime.Version.Version.Commit = version.Commit()
	e.Runtime.Config.Path = cfg.Path
	e.Runtime.AnnotationConfigFolders = cfg.Policy.ConfigFolders
	e.Hypervisor = hypervisorEnv{
		Path: d.Path, MachineType: d.MachineType, SharedFS: f.Kind, VirtioFSDaemon: f.Daemon,
		DefaultVCPUs: m.VCPUs, DefaultMemoryMiB: int64(m.MemoryMiB),
		StopTimeoutMS: d.StopTimeout.Milliseconds(), Debug: d.Debug,
	}
	e.Image.Path = m.Image
	e.Kernel.Path, e.Kernel.Parameters = m.Kernel, m.KernelParams
	e.Initrd.Path = m.Initrd
	e.Agent.Debug = cfg.Agent.Debug
	return e
}

func describeAccelerator(ctx context.Context, cfg *config.Config, e *env) error {
	verdict, err := accel.Probe(ctx, cfg.Driver.Accel)
	if ctx.Err() != nil {
		return err
	}
	if err != nil { // asked for and not usable: worth printing, not failing
		e.Hypervisor.AcceleratorReason = err.Error()
		return nil
	}
	e.Hypervisor.Accelerator, e.Hypervisor.AcceleratorReason = verdict.Name, verdict.Reason
	return nil
}
