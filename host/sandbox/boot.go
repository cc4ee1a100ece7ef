package sandbox

import (
	"context"
	"fmt"
	"path/filepath"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/undo"
)

// consoleFile is the name of the console's copy in the sandbox's folder.
const consoleFile = "console.log"

// boot brings up the guest, with all of it on the undo stack, and returns when it
// is ready for containers.
func (s *Sandbox) boot(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.BootTimeout,
		fmt.Errorf("the guest was not up within %s", s.cfg.BootTimeout))
	defer cancel()
	guest, err := guestvm.Boot(ctx, s.guestConfig(o), o.Parts, s.undo)
	if err != nil {
		return fmt.Errorf("boot the sandbox: %w", err)
	}
	s.guest = guest
	if err := s.connectAgent(ctx); err != nil {
		return s.bootError(err)
	}
	s.log.Debug("agent answers")
	if err := s.agent.setUp(ctx, o.ID, o.Pod, s.cfg.HookPath, s.cfg.KernelModules); err != nil {
		return s.bootError(err)
	}
	s.log.Debug("guest is set up")
	return s.startAgentSocket()
}

func (s *Sandbox) guestConfig(o Options) guestvm.Config {
	cfg := o.Guest
	cfg.Log = s.log
	cfg.Machine.ID, cfg.Machine.Dir, cfg.Share = s.id, s.Dir(), true
	cfg.Machine.OOMScoreAdj = o.Pod.OOMScoreAdj
	if cfg.Machine.Debug {
		cfg.Machine.ConsoleFile = filepath.Join(s.Dir(), consoleFile)
	}
	return cfg
}

// connectAgent opens the connection for calls.
func (s *Sandbox) connectAgent(ctx context.Context) error {
	conn, err := s.guest.Dial(ctx, api.PortAgent)
	if err != nil {
		return fmt.Errorf("connect to the agent: %w", err)
	}
	agent := newAgentConn(conn)
	s.agent = agent
	s.undo.Push("the agent's connection", undo.Plain, func(context.Context) error { return agent.client.Close() })
	return nil
}

// bootError says that the boot failed, with the machine's own words.
func (s *Sandbox) bootError(err error) error {
	return fmt.Errorf("boot the sandbox: %w", s.guest.Explain(err))
}
