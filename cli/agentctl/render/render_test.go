package render_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/typespb"
	"kata/cli/agentctl/message"
	"kata/cli/agentctl/render"
)

func TestText(t *testing.T) {
	for _, tt := range []struct {
		name    string
		message any
		want    string
	}{
		{"nothing", &agentpb.Empty{}, ""},
		{"zero is a value", &agentpb.WaitProcessResponse{Status: 0, StdoutBytes: 6}, "status: 0\nstdout_bytes: 6\nstderr_bytes: 0\nexited_at: 0\noom_events: 0\n"},
		{"an enum", &healthpb.HealthCheckResponse{Status: 1}, "status: SERVING\n"},
		{"output alone", &agentpb.ReadStreamResponse{Data: []byte("a\nb")}, "a\nb\n"},
		{"no output", &agentpb.ReadStreamResponse{}, ""},
		{"output that is no text", &agentpb.ReadStreamResponse{Data: []byte("\x1b[2J")},
			"00000000  1b 5b 32 4a                                       |.[2J|\n"},
		{"a text alone", &agentpb.Metrics{Metrics: "a 1\nb 2\n"}, "a 1\nb 2\n"},
		{"a word alone keeps its name", &agentpb.OOMEvent{ContainerId: "c"}, "container_id: c\n"},
		{"nested", &agentpb.GuestDetailsResponse{MemBlockSizeBytes: 1, AgentDetails: &agentpb.AgentDetails{Version: "1 2", StorageHandlers: []string{"a", "b,c", ""}}},
			"mem_block_size_bytes: 1\nagent_details:\n  version: 1 2\n  init_daemon: false\n  device_handlers: []\n" +
				"  storage_handlers: [a, \"b,c\", \"\"]\n  supports_seccomp: false\n  extra_features: []\nsupport_mem_hotplug_probe: false\n"},
		{"a list of messages", &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{
			{ToIPAddress: &typespb.IPAddress{Address: "::1", Family: 1}, Device: "lo"}, {}}},
			"ARPNeighbors:\n  - toIPAddress:\n      family: v6\n      address: ::1\n      mask: \"\"\n    device: lo\n    lladdr: \"\"\n    state: 0\n    flags: 0\n" +
				"  - device: \"\"\n    lladdr: \"\"\n    state: 0\n    flags: 0\n"},
		{"maps, sorted", &agentpb.CgroupStats{HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 1}, "1GB": {}}},
			"hugetlb_stats:\n  1GB:\n    usage: 0\n    max_usage: 0\n    failcnt: 0\n  2MB:\n    usage: 1\n    max_usage: 0\n    failcnt: 0\n"},
		{"text of several lines in between", &agentpb.CreateSandboxRequest{Hostname: "a\nb"},
			"hostname: |\n  a\n  b\ndns: []\nstorages: []\nsandbox_pidns: false\nsandbox_id: \"\"\nguest_hook_path: \"\"\nkernel_modules: []\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, render.Text(tt.message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	for _, tt := range []struct {
		name    string
		message any
		want    string
	}{
		{"nothing", &agentpb.Empty{}, `{}`},
		{"names and numbers", &agentpb.WaitProcessResponse{Status: -1, ExitedAt: 1 << 62},
			`{"status":-1,"stdout_bytes":0,"stderr_bytes":0,"exited_at":4611686018427387904,"oom_events":0}`},
		{"an enum", &healthpb.HealthCheckResponse{Status: 2}, `{"status":"NOT_SERVING"}`},
		{"an enum without a name", &healthpb.HealthCheckResponse{Status: 77}, `{"status":77}`},
		{"bytes", &agentpb.ReadStreamResponse{Data: []byte("hi\n")}, `{"data":"aGkK"}`},
		{"text as it is", &agentpb.Metrics{Metrics: "<\"&\n\xff"}, `{"metrics":"<\"&\n\ufffd"}`},
		{"what is not set is not there", &agentpb.UpdateInterfaceRequest{}, `{}`},
		{"optional values", &typespb.Route{Metric: new(uint32)},
			`{"dest":"","gateway":"","device":"","source":"","scope":0,"family":"v4","flags":0,"mtu":0,"metric":0}`},
		{"lists and maps", &agentpb.MemoryStats{Stats: map[string]uint64{"b": 2, "a": 1}},
			`{"cache":0,"use_hierarchy":false,"stats":{"a":1,"b":2},"events":{}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := render.JSON(tt.message)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if !json.Valid(got) {
				t.Error("it is no JSON")
			}
		})
	}
}

func TestWhatIsWrittenCanBeRead(t *testing.T) {
	want := &agentpb.CreateContainerRequest{
		ContainerId: "c", Devices: []*agentpb.Device{{Id: "d", Options: []string{"o"}}}, StdinPort: 7,
		StringUser: &agentpb.StringUser{Uid: "1", AdditionalGids: []string{"2"}},
	}
	got := &agentpb.CreateContainerRequest{}
	if err := message.DecodeJSON(render.JSON(want), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(render.JSON(want)), string(render.JSON(got))); diff != "" {
		t.Error(diff)
	}
}
