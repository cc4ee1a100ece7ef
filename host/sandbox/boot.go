package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/journal"
	"kata/host/undo"
)

// consoleFile is the name of the console's copy.
const consoleFile = "console.log"

// boot brings up the guest, with all of it on the undo stack, and returns when it
// is ready for containers.
func (s *Sandbox) boot(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.BootTimeout,
		fmt.Errorf("the guest was not up within %s", s.cfg.BootTimeout))
	defer cancel()
	cfg, err := s.guestConfig(o)
	if err != nil {
		return fmt.Errorf("boot the sandbox: %w", err)
	}
	guest, err := guestvm.Boot(ctx, cfg, o.Parts, s.undo)
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

func (s *Sandbox) guestConfig(o Options) (guestvm.Config, error) {
	cfg := o.Guest
	cfg.Log = s.log
	cfg.Machine.ID, cfg.Machine.Dir, cfg.Share = s.id, s.Dir(), true
	cfg.Machine.OOMScoreAdj = o.Pod.OOMScoreAdj
	if cfg.Machine.Debug {
		dir, err := s.consoleDir(o.ConsoleRoot)
		if err != nil {
			return cfg, err
		}
		cfg.Machine.ConsoleFile = filepath.Join(dir, consoleFile)
	}
	return cfg, nil
}

// consoleDir makes the folder of the console's copy below root; "" is the sandbox's
// own folder.
func (s *Sandbox) consoleDir(root string) (string, error) {
	if root == "" {
		return s.Dir(), nil
	}
	dir := filepath.Join(root, filepath.Base(s.Dir()))
	if _, err := s.undo.Hold(journal.Directory{Path: dir}, undo.Plain); err != nil {
		return "", fmt.Errorf("folder of the console: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder of the console: %w", err)
	}
	return dir, nil
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
