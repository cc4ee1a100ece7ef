package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"kata/host/journal"
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

// Cleanup releases what a sandbox left behind, from its journal on disk: it kills
// the shim if it still lives, releases every entry, and removes the folder. What
// could not be released stays in the journal, and Cleanup may be called again. A
// sandbox that left nothing is no error.
func Cleanup(ctx context.Context, o CleanupOptions) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	dir, header, err := journal.Find(o.StateRoot, o.ID, o.Bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if shim := header.Shim; shim.PID > 0 && shim.PID != os.Getpid() {
		if err := shim.Kill(ctx); err != nil {
			return fmt.Errorf("kill the shim (pid %d) of sandbox %s: %w", shim.PID, o.ID, err)
		}
	}
	j, err := journal.TakeOver(ctx, o.StateRoot, o.ID, o.Bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := release(ctx, j); err != nil {
		return fmt.Errorf("clean up sandbox %s: %w", o.ID, err)
	}
	o.Log.Info("sandbox cleaned up", "sandbox", o.ID, "dir", dir)
	return nil
}

// release releases all that a journal lists and then the journal.
func release(ctx context.Context, j *journal.Journal) error {
	err := j.ReleaseAll(ctx)
	if err == nil {
		err = j.Remove()
	}
	return errors.Join(err, j.Close())
}
