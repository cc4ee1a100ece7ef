package agent

import (
	"context"
	"errors"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/fault"
	"kata/guest/sandbox"
	"kata/lib/fmt"
)

// maxHostname is what sethostname(2) takes.
const maxHostname = 64

// destroyTimeout bounds the end of the containers: the machine goes anyway.
const destroyTimeout = 10 * time.Second

func (s *Service) createSandbox(ctx context.Context, req *agentpb.CreateSandboxRequest) (*agentpb.Empty, error) {
	// Upstream's tools may leave the name of the sandbox out.
	if req.SandboxId != "" {
		if err := checkID("sandbox_id", req.SandboxId); err != nil {
			return nil, err
		}
	}
	switch {
	case len(req.Hostname) > maxHostname || strings.IndexByte(req.Hostname, 0) >= 0:
		return nil, invalid("hostname", req.Hostname, "is not a hostname of at most 64 bytes")
	case len(req.KernelModules) != 0 && !s.cfg.Init:
		return nil, invalid("kernel_modules", req.KernelModules[0].GetName(), "cannot be loaded: the agent is not the init of this machine")
	case req.GuestHookPath != "" && (!path.IsAbs(req.GuestHookPath) || strings.IndexByte(req.GuestHookPath, 0) >= 0):
		return nil, invalid("guest_hook_path", req.GuestHookPath, "is not an absolute path")
	}
	options := sandbox.Options{ID: req.SandboxId, Hostname: req.Hostname, DNS: req.Dns, Storages: req.Storages, HookDir: req.GuestHookPath}
	// A kernel whose modules are all loaded is sealed already, or will be at once.
	if len(req.KernelModules) != 0 || s.cfg.Init && s.cfg.Modules.Left() {
		options.Prepare = func() error { return s.loadModules(req.KernelModules) }
	}
	if err := s.sandbox.Create(ctx, options); err != nil {
		return nil, err
	}
	s.cfg.Log.Debug("sandbox created", "sandbox", req.SandboxId)
	return &agentpb.Empty{}, nil
}

// loadModules loads the kernel modules that a pod asks for, and none after them.
func (s *Service) loadModules(modules []*agentpb.KernelModule) error {
	for _, m := range modules {
		if err := s.cfg.Modules.Load(m.GetName(), m.GetParameters()); err != nil {
			kind := fault.Invalid
			if errors.Is(err, unix.ENOMEM) {
				kind = ""
			}
			return &fault.Error{Kind: kind, Field: fmt.Sprintf("kernel_modules %q", m.GetName()), Cause: err}
		}
	}
	return s.cfg.Seal()
}

// destroySandbox releases what can be released in time; the machine ends in any
// case.
func (s *Service) destroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*agentpb.Empty, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	s.files.Close()
	err := s.sandbox.Destroy(ctx)
	s.once.Do(func() { close(s.destroyed) })
	if err != nil {
		return nil, err
	}
	return &agentpb.Empty{}, nil
}
