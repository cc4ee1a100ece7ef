package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

const cleanupTimeout = 10 * time.Second

// CleanupOptions names a sandbox whose shim is gone.
type CleanupOptions struct {
	StateRoot string
	ID        string
	// Bundle is the bundle of the sandbox's first container; empty matches any.
	Bundle string
	Log    *slog.Logger
}

// Cleanup releases what a sandbox left behind, from its state on disk: it
// kills the shim if it still lives and the processes it started, then removes
// the folder. A sandbox that left nothing is no error, so it may run twice.
func Cleanup(ctx context.Context, o CleanupOptions) error {
	dir, state, err := find(o.StateRoot, o.ID, o.Bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var errs []error
	owned := append([]HostProcess{{Name: "shim", ID: state.Shim}}, state.Processes...)
	for _, p := range owned {
		if p.ID.PID <= 0 || p.ID.PID == os.Getpid() {
			continue
		}
		if err := p.ID.Kill(ctx); err != nil {
			errs = append(errs, fmt.Errorf("kill %s (pid %d) of sandbox %s: %w", p.Name, p.ID.PID, o.ID, err))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("remove state of sandbox %s: %w", o.ID, err))
	}
	o.Log.Info("sandbox cleaned up", "sandbox", o.ID, "dir", dir)
	return errors.Join(errs...)
}
