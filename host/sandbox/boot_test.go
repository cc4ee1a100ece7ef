package sandbox

import (
	"strings"
	"testing"

	"kata/host/config"
)

func TestKernelParametersOfTheAgent(t *testing.T) {
	for name, tt := range map[string]struct {
		agent config.Agent
		want  string
	}{
		"nothing asked for": {config.Agent{}, "agent.ready_vport=1028 operator=1"},
		"debug messages":    {config.Agent{Debug: true}, "agent.ready_vport=1028 agent.log=debug operator=1"},
		"a debug console": {
			config.Agent{DebugConsole: true},
			"agent.ready_vport=1028 agent.debug_console agent.debug_console_vport=1026 operator=1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Sandbox{cfg: &config.Config{Agent: tt.agent}, store: &store{dir: "/d"}}
			s.cfg.Hypervisor.KernelParams = "operator=1"
			if got := strings.Join(s.machineSpec("tcg").KernelParams, " "); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
