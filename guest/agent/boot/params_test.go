package boot

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kata/guest/agent/log"
)

func TestParseCommandLine(t *testing.T) {
	defaults := Params{LogLevel: log.LevelInfo, HotplugTimeout: 3 * time.Second, ServerAddr: Addr{Port: 1024}}
	with := func(change func(*Params)) Params {
		p := defaults
		change(&p)
		return p
	}
	for _, tt := range []struct {
		name, line string
		want       Params
	}{
		{"nothing", "", defaults},
		{"parameters of others", "console=ttyS0 quiet systemd.unit=x agentx=1", defaults},
		{"log level", "agent.log=debug", with(func(p *Params) { p.LogLevel = log.LevelDebug })},
		{"the last of two", "agent.log=debug agent.log=error", with(func(p *Params) { p.LogLevel = log.LevelError })},
		{"ports", "agent.log_vport=1025 agent.debug_console_vport=1026 agent.ready_vport=1028\n", with(func(p *Params) {
			p.LogPort, p.DebugConsolePort, p.ReadyPort = 1025, 1026, 1028
		})},
		{"console", "agent.debug_console", with(func(p *Params) { p.DebugConsole = true })},
		{"no console", "agent.debug_console=true agent.debug_console=false", defaults},
		{"time-out", "agent.hotplug_timeout=10", with(func(p *Params) { p.HotplugTimeout = 10 * time.Second })},
		{"pipe size", "agent.container_pipe_size=65536", with(func(p *Params) { p.PipeSize = 65536 })},
		{"address", "agent.server_addr=vsock://-1:99", with(func(p *Params) { p.ServerAddr = Addr{Port: 99} })},
		{"address of a unix socket", "agent.server_addr=unix:///run/a.sock", with(func(p *Params) { p.ServerAddr = Addr{Path: "/run/a.sock"} })},
		{"quotes", `dyndbg="file a b agent.log=debug" "agent.log=warn"`, with(func(p *Params) { p.LogLevel = log.LevelWarn })},
		{"arguments of init", "agent.log=warn -- agent.log=debug", with(func(p *Params) { p.LogLevel = log.LevelWarn })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ParseCommandLine(tt.line), cmpopts.EquateErrors()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadParametersAreProblemsAndChangeNothing(t *testing.T) {
	for _, word := range []string{
		"agent.log=loud", "agent.log", "agent.nonsense=1", "agent.=", "agent.log_vport=x", "agent.debug_console=maybe", "agent.log_vport=-1",
		"agent.ready_vport=4294967295", "agent.ready_vport=99999999999999999999", "agent.hotplug_timeout=1h",
		"agent.hotplug_timeout=3601", "agent.container_pipe_size=1048577", "agent.container_pipe_size=",
		"agent.server_addr=tcp://1:2", "agent.server_addr=vsock://1024", "agent.server_addr=vsock://-1:0",
		"agent.server_addr=unix://relative",
	} {
		p := ParseCommandLine(word)
		key, value, _ := strings.Cut(word, "=")
		if len(p.Problems) != 1 || p.Problems[0].Key != key || p.Problems[0].Value != value || p.Problems[0].Err == nil {
			t.Errorf("%s: problems %+v", word, p.Problems)
		}
		p.Problems = nil
		if diff := cmp.Diff(ParseCommandLine(""), p); diff != "" {
			t.Errorf("%s: %s", word, diff)
		}
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add(`agent.log=debug "agent.x`)
	f.Add("agent.server_addr=vsock://:: -- x")
	f.Fuzz(func(t *testing.T, line string) {
		p := ParseCommandLine(line)
		if addr := p.ServerAddr; (addr.Path == "") == (addr.Port == 0) {
			t.Errorf("address %+v", addr)
		}
		if p.PipeSize < 0 || p.PipeSize > maxPipeSize || p.HotplugTimeout < 0 || p.HotplugTimeout > maxHotplugTimeout {
			t.Errorf("out of bounds: %+v", p)
		}
	})
}
