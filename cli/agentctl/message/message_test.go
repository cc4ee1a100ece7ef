package message_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/api/typespb"
	"kata/cli/agentctl/message"
)

// empty returns a message of the package grpc, or of another that is named.
func empty(t testing.TB, name string) *message.Message {
	t.Helper()
	if !strings.Contains(name, ".") {
		name = "grpc." + name
	}
	typ, err := message.New().Type(name)
	if err != nil {
		t.Fatal(err)
	}
	return typ.New()
}

// from returns a message with the contents of a generated one.
func from(t testing.TB, name string, typed ttrpc.Message) *message.Message {
	t.Helper()
	m, data := empty(t, name), make([]byte, typed.SizeVT())
	if _, err := typed.MarshalToSizedBufferVT(data); err != nil {
		t.Fatal(err)
	}
	if err := m.UnmarshalVT(data); err != nil {
		t.Fatal(err)
	}
	return m
}

func asJSON(t testing.TB, m *message.Message) string {
	t.Helper()
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(text) || strings.Contains(string(text), "\n") {
		t.Errorf("no line of JSON: %s", text)
	}
	return string(text)
}

func TestDecodeJSON(t *testing.T) {
	for _, tt := range []struct{ name, of, json, want string }{
		{"names of the .proto", "SignalProcessRequest", `{"container_id": "c", "signal": 9}`, `{"container_id":"c","exec_id":"","signal":9,"all":false}`},
		{"names of protobuf's JSON", "SignalProcessRequest", `{"containerId": "c", "all": true}`, `{"container_id":"c","exec_id":"","signal":0,"all":true}`},
		{"bytes are base64", "WriteStreamRequest", `{"data": "aGkK"}`, `{"container_id":"","exec_id":"","data":"aGkK"}`},
		{"64-bit numbers as numbers and strings", "SetGuestDateTimeRequest", `{"Sec": "1700000000000", "Usec": -1}`, `{"Sec":"1700000000000","Usec":"-1"}`},
		{"enums by name and number", "types.Interface", `{"IPAddresses": [{"family": "v6"}, {"family": 1}]}`,
			`{"device":"","name":"","IPAddresses":[{"family":"v6","address":"","mask":""},{"family":"v6","address":"","mask":""}],"mtu":"0","hwAddr":"","devicePath":"","type":"","raw_flags":0}`},
		{"optional values", "MemAgentMemcgConfig", `{"disabled": false}`, `{"disabled":false}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := empty(t, tt.of)
			if err := m.DecodeJSON([]byte(tt.json)); err != nil {
				t.Fatal(err)
			}
			got := asJSON(t, m)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			again := empty(t, tt.of)
			if err := again.DecodeJSON([]byte(got)); err != nil || asJSON(t, again) != got {
				t.Errorf("what is written reads as %s, %v", asJSON(t, again), err)
			}
		})
	}
}

func TestWrongJSONIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		`{"container": "c"}`:       `(line 1:2): unknown field "container"`,
		`{"container_id": 3}`:      `invalid value for string field containerId: 3`,
		`{"devices": {}}`:          "unexpected token {",
		`{"stdin_port": -1}`:       `invalid value for uint32 field stdinPort: -1`,
		`{"sandbox_pidns": "yes"}`: `invalid value for bool field sandboxPidns: "yes"`,
		`{"container_id": "c"`:     "unexpected EOF",
		`{} {}`:                    "unexpected token {",
		`[]`:                       "unexpected token [",
	} {
		err := empty(t, "CreateContainerRequest").DecodeJSON([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\u00a0") || strings.HasPrefix(err.Error(), "proto:") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestAssign(t *testing.T) {
	type pairs [][2]string
	files := func(path string) ([]byte, error) {
		if path != "/f" {
			return nil, errors.New("no such file")
		}
		return []byte("contents"), nil
	}
	pointer := func(v bool) *bool { return &v }
	for _, tt := range []struct {
		name       string
		of         string
		pairs      pairs
		into, want ttrpc.Message
	}{
		{"scalars, with bases", "CopyFileRequest", pairs{{"path", "/x"}, {"file_mode", "0644"}, {"uid", "-1"}, {"offset", "0x10"}},
			&agentpb.CopyFileRequest{}, &agentpb.CopyFileRequest{Path: "/x", FileMode: 0o644, Uid: -1, Offset: 16}},
		{"a nested field", "CreateContainerRequest", pairs{{"string_user.uid", "1"}, {"string_user.gid", "2"}},
			&agentpb.CreateContainerRequest{}, &agentpb.CreateContainerRequest{StringUser: &agentpb.StringUser{Uid: "1", Gid: "2"}}},
		{"names in any case", "CreateContainerRequest", pairs{{"oci.process.args", "a"}, {"OCI.Process.Args", "b"}, {"stdinPort", "7"}},
			&agentpb.CreateContainerRequest{}, &agentpb.CreateContainerRequest{StdinPort: 7, OCI: &ocipb.Spec{Process: &ocipb.Process{Args: []string{"b"}}}}},
		{"a list replaces, then appends", "CreateSandboxRequest", pairs{{"dns", "a"}, {"dns", "b"}},
			&agentpb.CreateSandboxRequest{Dns: []string{"old"}}, &agentpb.CreateSandboxRequest{Dns: []string{"a", "b"}}},
		{"a list as JSON, then appended", "CreateSandboxRequest", pairs{{"dns", `["a"]`}, {"dns", "b"}},
			&agentpb.CreateSandboxRequest{}, &agentpb.CreateSandboxRequest{Dns: []string{"a", "b"}}},
		{"a list of messages", "CreateSandboxRequest", pairs{{"storages", `{"driver":"a"}`}, {"storages", `{"driver":"b"}`}},
			&agentpb.CreateSandboxRequest{}, &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{{Driver: "a"}, {Driver: "b"}}}},
		{"numbers in a list", "AddSwapRequest", pairs{{"PCIPath", "1"}, {"PCIPath", "2"}},
			&agentpb.AddSwapRequest{}, &agentpb.AddSwapRequest{PCIPath: []uint32{1, 2}}},
		{"a message as JSON, then a field of it", "UpdateInterfaceRequest", pairs{{"interface", `{"name":"eth0"}`}, {"interface.mtu", "1400"}},
			&agentpb.UpdateInterfaceRequest{}, &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "eth0", Mtu: 1400}}},
		{"entries of a map", "CreateContainerRequest", pairs{{"OCI.Annotations.a.b", "c"}, {"OCI.Annotations.d", "e"}},
			&agentpb.CreateContainerRequest{}, &agentpb.CreateContainerRequest{OCI: &ocipb.Spec{Annotations: map[string]string{"a.b": "c", "d": "e"}}}},
		{"bytes are text", "WriteStreamRequest", pairs{{"data", `{"not": "parsed"}`}},
			&agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte(`{"not": "parsed"}`)}},
		{"bytes from a file", "WriteStreamRequest", pairs{{"data", "file:///f"}}, &agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte("contents")}},
		{"bytes from base64", "WriteStreamRequest", pairs{{"data", "base64://AAE="}}, &agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte{0, 1}}},
		{"an optional value of zero", "MemAgentMemcgConfig", pairs{{"swap", "false"}}, &agentpb.MemAgentMemcgConfig{}, &agentpb.MemAgentMemcgConfig{Swap: pointer(false)}},
		{"an empty string", "StartContainerRequest", pairs{{"container_id", ""}}, &agentpb.StartContainerRequest{ContainerId: "x"}, &agentpb.StartContainerRequest{}},
		{"an enum in any case", "types.IPAddress", pairs{{"family", "V6"}}, &typespb.IPAddress{}, &typespb.IPAddress{Family: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := from(t, tt.of, tt.into)
			a := message.NewAssigner(m, files)
			for _, p := range tt.pairs {
				if err := a.Set(p[0], p[1]); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(asJSON(t, from(t, tt.of, tt.want)), asJSON(t, m)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for pair, want := range map[[2]string]string{
		{"nope", "1"}:                `nope: unknown field "nope": CreateContainerRequest has container_id, `,
		{"container_id.x", "1"}:      "container_id.x: container_id is string, which has no field x",
		{"OCI", "text"}:              "OCI: Spec is written as JSON",
		{"OCI", `{},"stdin_port":1`}: "OCI: Spec is written as JSON",
		{"stdin_port", "x"}:          `stdin_port: "x" is not a number (uint32)`,
		{"stdin_port", "4294967296"}: "stdin_port: 4294967296 is out of the range of uint32",
		{"sandbox_pidns", "x"}:       `sandbox_pidns: "x" is neither true nor false`,
		{"devices.id", "x"}:          "devices.id: devices is []Device, which has no field id",
		{"devices", "{"}:             "devices: Device is written as JSON",
		{"OCI.Linux.Nope", "x"}:      `unknown field "Nope"`,
		{"OCI.Annotations", "text"}:  "map[string]string is written as JSON",
	} {
		err := message.NewAssigner(empty(t, "CreateContainerRequest"), files).Set(pair[0], pair[1])
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", pair, err, want)
		}
	}
}

func TestEditChangesAMessageAsTheGeneratedOne(t *testing.T) {
	m := empty(t, "SignalProcessRequest")
	if err := m.DecodeJSON([]byte(`{"container_id": "c"}`)); err != nil {
		t.Fatal(err)
	}
	err := message.Edit(m, func(q *agentpb.SignalProcessRequest) error { q.Signal = 9; return nil })
	if got := asJSON(t, m); err != nil || got != `{"container_id":"c","exec_id":"","signal":9,"all":false}` {
		t.Errorf("%s, %v", got, err)
	}
	refused := errors.New("no")
	if err := message.Edit(m, func(*agentpb.SignalProcessRequest) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		name, of string
		message  ttrpc.Message
		want     string
	}{
		{"nothing", "Empty", &agentpb.Empty{}, ""},
		{"zero is a value", "WaitProcessResponse", &agentpb.WaitProcessResponse{Status: 0, StdoutBytes: 6}, "status: 0\nstdout_bytes: 6\nstderr_bytes: 0\nexited_at: 0\noom_events: 0\n"},
		{"an enum", "HealthCheckResponse", &healthpb.HealthCheckResponse{Status: 1}, "status: SERVING\n"},
		{"output alone", "ReadStreamResponse", &agentpb.ReadStreamResponse{Data: []byte("a\nb")}, "a\nb\n"},
		{"no output", "ReadStreamResponse", &agentpb.ReadStreamResponse{}, ""},
		{"output that is no text", "ReadStreamResponse", &agentpb.ReadStreamResponse{Data: []byte("\x1b[2J")},
			"00000000  1b 5b 32 4a                                       |.[2J|\n"},
		{"a text alone", "Metrics", &agentpb.Metrics{Metrics: "a 1\nb 2\n"}, "a 1\nb 2\n"},
		{"a word alone keeps its name", "OOMEvent", &agentpb.OOMEvent{ContainerId: "c"}, "container_id: \"c\"\n"},
		{"nested", "GuestDetailsResponse", &agentpb.GuestDetailsResponse{MemBlockSizeBytes: 1, AgentDetails: &agentpb.AgentDetails{Version: "1 2:  3", StorageHandlers: []string{"a", "b"}}},
			"mem_block_size_bytes: 1\nagent_details: {\n  version: \"1 2:  3\"\n  init_daemon: false\n" +
				"  storage_handlers: \"a\"\n  storage_handlers: \"b\"\n  supports_seccomp: false\n}\nsupport_mem_hotplug_probe: false\n"},
		{"a list of messages", "ARPNeighbors", &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{{Device: "lo"}, {}}},
			"ARPNeighbors: {\n  device: \"lo\"\n  lladdr: \"\"\n  state: 0\n  flags: 0\n}\nARPNeighbors: {\n  device: \"\"\n  lladdr: \"\"\n  state: 0\n  flags: 0\n}\n"},
		{"maps, sorted", "CgroupStats", &agentpb.CgroupStats{HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 1}, "1GB": {}}},
			"hugetlb_stats: {\n  key: \"1GB\"\n  value: {\n    usage: 0\n    max_usage: 0\n    failcnt: 0\n  }\n}\n" +
				"hugetlb_stats: {\n  key: \"2MB\"\n  value: {\n    usage: 1\n    max_usage: 0\n    failcnt: 0\n  }\n}\n"},
		{"optional values that are not set", "types.Route", &typespb.Route{Dest: "::"},
			"dest: \"::\"\ngateway: \"\"\ndevice: \"\"\nsource: \"\"\nscope: 0\nfamily: v4\nflags: 0\nmtu: 0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := from(t, tt.of, tt.message).Text()
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

func TestFieldsTellTheirTypes(t *testing.T) {
	got := map[string]string{}
	add := func(prefix string, fields []message.Field) {
		for _, f := range fields {
			got[prefix+f.Name] = f.Type
		}
	}
	create := empty(t, "CreateContainerRequest").Type
	add("", create.Fields())
	add("OCI.", create.FieldsAt("oci"))
	add("interface.", empty(t, "UpdateInterfaceRequest").FieldsAt("interface"))
	add("", empty(t, "types.IPAddress").Fields())
	add("", empty(t, "WriteStreamRequest").Fields())
	add("", empty(t, "MemAgentMemcgConfig").Fields())
	for name, want := range map[string]string{
		"container_id": "string", "OCI": "Spec", "devices": "[]Device", "sandbox_pidns": "bool",
		"OCI.Annotations": "map[string]string", "interface.mtu": "uint64", "interface.IPAddresses": "[]IPAddress",
		"family": "IPFamily (v4, v6)", "data": "bytes", "swap": "optional bool",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if fields := create.FieldsAt("container_id"); fields != nil {
		t.Errorf("a text has the fields %v", fields)
	}
}

func TestEveryCallOfTheAPIIsThere(t *testing.T) {
	methods := message.New().Methods()
	services := map[string]int{}
	for _, m := range methods {
		services[m.Service]++
		if m.Request.New() == nil || m.Response.New() == nil {
			t.Errorf("%s has no messages", m.Name)
		}
	}
	if services["grpc.Health"] != 2 || services["grpc.AgentService"] < 40 {
		t.Errorf("calls of each service: %v", services)
	}
}

func TestFilePath(t *testing.T) {
	if path, err := message.FilePath("file:///a%20b/c"); path != "/a b/c" || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	for _, wrong := range []string{"file://relative/x", "file://", "http://x/y", "file:///a?b", "file:///%zz"} {
		if path, err := message.FilePath(wrong); err == nil {
			t.Errorf("%s: %q", wrong, path)
		}
	}
}

func FuzzAssign(f *testing.F) {
	f.Add("OCI.Annotations.a", "b")
	f.Add("devices", `[{"options":["a"]}]`)
	f.Add("OCI.Linux", `{"Resources":{}}`)
	typ, err := message.New().Type("grpc.CreateContainerRequest")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		m := typ.New()
		a := message.NewAssigner(m, func(string) ([]byte, error) { return nil, nil })
		if a.Set(key, value) != nil {
			return
		}
		if _, err := m.JSON(); err != nil {
			t.Errorf("what was set cannot be shown: %v", err)
		}
		if _, err := m.Text(); err != nil {
			t.Errorf("what was set cannot be shown as text: %v", err)
		}
	})
}
