package guestvm

import (
	"strings"
	"testing"

	"kata/host/config"
	"kata/host/vmm"
)

func TestKernelParametersOfTheAgent(t *testing.T) {
	for name, tt := range map[string]struct {
		agent config.Agent
		want  string
	}{
		"nothing asked for": {config.Agent{}, "agent.ready_vport=1028 operator=1 too"},
		"debug messages":    {config.Agent{Debug: true}, "agent.ready_vport=1028 agent.log=debug operator=1 too"},
		"a debug console": {
			config.Agent{DebugConsole: true},
			"agent.ready_vport=1028 agent.debug_console agent.debug_console_vport=1026 operator=1 too",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := FromConfig(config.Machine{KernelParams: " operator=1  too "}, config.Driver{}, config.FileShare{}, tt.agent, nil)
			v := &VM{cfg: cfg, link: &deviceLink{socket: "/d/vsock.sock"}}
			spec := v.spec("tcg")
			if got := strings.Join(spec.KernelParams, " "); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if spec.Accel != vmm.AccelTCG || spec.Vsock == nil || spec.Vsock.Socket != "/d/vsock.sock" {
				t.Errorf("the machine is %+v", spec)
			}
		})
	}
}
