//go:build vm

package qemu

import (
	"log/slog"
	"testing"

	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vmm/vmmtest"
)

func TestConformance(t *testing.T) {
	vmmtest.Run(t, func(spec vmm.Spec, spawner *process.Spawner, log *slog.Logger) (vmm.Machine, error) {
		return New(spec, Config{RootPorts: 2}, spawner, log)
	}, vmm.AccelTCG)
}
