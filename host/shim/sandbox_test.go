package shim

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"kata/host/guestvm"
	"kata/host/guestvm/guestvmtest"
	"kata/host/process"
	"kata/host/sandbox"
	"kata/host/shim/task"
	"kata/host/shim/task/tasktest"
	"kata/host/vmm"
)

// The sandbox that the shim runs, over a guest of fakes, is what task asks for, as
// its fake is.
func TestTheRealSandboxIsASandbox(t *testing.T) {
	tasktest.Run(t, func(t *testing.T) (task.Sandbox, func(error)) {
		root, err := os.MkdirTemp("", "sb") // short: sockets lie below it
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(root) })
		parts, spawner := guestvmtest.NewParts(), process.NewSpawner()
		t.Cleanup(spawner.Close)
		s, err := sandbox.New(t.Context(), sandbox.Options{
			ID: "pod", Bundle: "/bundle", StateRoot: root, Parts: parts, Spawner: spawner, Log: slog.New(slog.DiscardHandler),
			Guest: guestvm.Config{Machine: vmm.Spec{VCPUs: 1, MemoryMiB: 128}, StopTimeout: time.Minute},
			Agent: sandbox.Agent{BootTimeout: time.Minute, CreateTimeout: time.Minute},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return sandboxAdapter{s}, parts.VMM.Die
	})
}
