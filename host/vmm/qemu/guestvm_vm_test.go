//go:build vm

package qemu_test

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"kata/host/guestvm"
	"kata/host/guestvm/guestvmtest"
	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vmm/qemu"
	"kata/host/vmm/vmmtest"
)

func TestQEMUIsAMachineOfAGuest(t *testing.T) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	kernel, initrd := vmmtest.Kernel(t), vmmtest.Initrd(t, vmmtest.TestInit)
	guestvmtest.TestMachine(t, func(t *testing.T) (guestvm.Machine, func()) {
		m, err := qemu.New(vmm.Spec{
			ID: "test", Dir: t.TempDir(), VCPUs: 1, MemoryMiB: 256, Kernel: kernel, Initrd: initrd, Accel: vmm.AccelTCG,
		}, qemu.Config{}, spawner, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return m, func() { _ = unix.Kill(m.Pids()[0].PID, unix.SIGKILL) }
	})
}
