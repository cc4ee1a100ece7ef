//go:build vm

package qemu

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata/host/process"
	"kata/host/share"
	"kata/host/vmm"
	"kata/host/vmm/vmmtest"
)

func TestConformance(t *testing.T) {
	vmmtest.Run(t, func(spec vmm.Spec, spawner *process.Spawner, log *slog.Logger) (vmm.Machine, error) {
		return New(spec, Config{}, spawner, log)
	}, vmm.AccelTCG, serveShare)
}

func serveShare(t *testing.T, spawner *process.Spawner, dir, socket string) {
	t.Helper()
	daemon, err := share.StartDaemon(within(t, time.Minute), share.DaemonConfig{
		Paths:  []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"},
		Socket: socket, SharedDir: dir, Cache: "never", Log: discard(),
	}, spawner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Stop(within(t, time.Minute)); err != nil {
			t.Error(err)
		}
	})
}

// TestPowers: docs/design/vmm.md has this list.
func TestPowers(t *testing.T) {
	want := []string{"block", "block resize", "network", "file share", "vsock", "vCPU", "memory", "pause", "snapshot"}
	if diff := cmp.Diff(want, vmmtest.Powers((*Machine)(nil))); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkBoot is the time from New to the first word of the guest's init:
// what any start of a pod costs at least.
func BenchmarkBoot(b *testing.B) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	dir := b.TempDir()
	spec := vmm.Spec{
		ID: "bench", Dir: dir, ConsoleFile: filepath.Join(dir, "console"), VCPUs: 1, MemoryMiB: 512, Accel: vmm.AccelTCG,
		Kernel: vmmtest.Kernel(b), Initrd: vmmtest.Initrd(b, vmmtest.TestInit),
	}
	for b.Loop() {
		m, err := New(spec, Config{}, spawner, discard())
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		vmmtest.AwaitConsole(b, m, spec.ConsoleFile, vmmtest.Ready)
		b.StopTimer()
		if err := m.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(spec.ConsoleFile); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
