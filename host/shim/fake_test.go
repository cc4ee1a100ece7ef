package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"kata/host/shim/bootstrap"
	"kata/host/shim/spec"
	"kata/host/shim/task"
	"kata/host/shim/task/tasktest"
	"kata/test/leaktest"
)

// asShim in the environment makes the test program a shim whose sandbox is a
// fake; it names a folder where Cleanup leaves a trace.
const asShim = "KATA_TEST_SHIM"

// TestMain lets the tests run the program itself as containerd would: started,
// forked, killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(asShim)
	if dir == "" {
		os.Exit(leaktest.Run(m, "kata/host/shim."))
	}
	p := New(bootstrap.Build{Version: "1.2.3", Commit: "abc"})
	p.Boot = bootFake
	p.Cleanup = func(*slog.Logger) bootstrap.Cleanup {
		return func(_ context.Context, id, bundle string) error {
			f, err := os.OpenFile(filepath.Join(dir, "cleanup"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(f, id, filepath.Base(bundle))
			return errors.Join(err, f.Close())
		}
	}
	if err := p.Run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bootFake boots a sandbox of nothing. The first word of a process's command
// says what it does: "exit N" ends at once, "sleep" when it is killed; a boot
// for "no-boot" fails, one for "slow-boot" takes until it is aborted.
func bootFake(env BootEnv) Boot {
	return func(ctx context.Context, r task.BootRequest) (task.Sandbox, error) {
		env.Log.Info("boot", "sandbox", r.ID, "config", r.ConfigPath)
		oci, err := spec.Read(r.Bundle)
		if err != nil {
			return nil, err
		}
		switch oci.Process.Args[0] {
		case "no-boot":
			return nil, errors.New("boot the sandbox: it is a fake")
		case "slow-boot":
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return tasktest.New(new(tasktest.Behaviour)), nil
	}
}
