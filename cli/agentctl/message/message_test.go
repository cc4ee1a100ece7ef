package message_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/typespb"
	"kata/cli/agentctl/message"
)

func ptr[T any](v T) *T { return &v }

func TestDecodeJSON(t *testing.T) {
	for _, tt := range []struct {
		name, json string
		into, want any
	}{
		{"names of the .proto", `{"container_id": "c", "signal": 9}`,
			&agentpb.SignalProcessRequest{}, &agentpb.SignalProcessRequest{ContainerId: "c", Signal: 9}},
		{"names of protobuf's JSON", `{"containerId": "c", "all": true}`,
			&agentpb.SignalProcessRequest{}, &agentpb.SignalProcessRequest{ContainerId: "c", All: true}},
		{"any case", `{"oci": {"process": {"args": ["a", "b"], "user": {"uid": 3}}}}`,
			&agentpb.CreateContainerRequest{},
			&agentpb.CreateContainerRequest{OCI: &ocipb.Spec{Process: &ocipb.Process{Args: []string{"a", "b"}, User: &ocipb.User{UID: 3}}}}},
		{"bytes are base64", `{"data": "aGkK"}`, &agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte("hi\n")}},
		{"64-bit numbers as strings", `{"Sec": "1700000000000", "Usec": -1}`,
			&agentpb.SetGuestDateTimeRequest{}, &agentpb.SetGuestDateTimeRequest{Sec: 1700000000000, Usec: -1}},
		{"enums by name and number", `{"IPAddresses": [{"family": "v6"}, {"family": 1}]}`,
			&typespb.Interface{}, &typespb.Interface{IPAddresses: []*typespb.IPAddress{{Family: 1}, {Family: 1}}}},
		{"maps", `{"Annotations": {"a.b": "1"}, "Linux": {"Resources": {"Rdma": {"mlx": {"HcaHandles": 0}}}}}`,
			&ocipb.Spec{},
			&ocipb.Spec{Annotations: map[string]string{"a.b": "1"}, Linux: &ocipb.Linux{Resources: &ocipb.LinuxResources{
				Rdma: map[string]*ocipb.LinuxRdma{"mlx": {HcaHandles: ptr(uint32(0))}}}}}},
		{"null leaves alone", `{"container_id": null}`,
			&agentpb.StartContainerRequest{ContainerId: "c"}, &agentpb.StartContainerRequest{ContainerId: "c"}},
		{"what is not named stays", `{"disabled": false}`,
			&agentpb.MemAgentMemcgConfig{Swap: ptr(true)}, &agentpb.MemAgentMemcgConfig{Swap: ptr(true), Disabled: ptr(false)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := message.DecodeJSON([]byte(tt.json), tt.into); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.into); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWrongJSONIsNamed(t *testing.T) {
	for json, want := range map[string]string{
		`{"container": "c"}`:                     `unknown field "container": CreateContainerRequest has container_id`,
		`{"container_id": 3}`:                    "container_id: 3 is a number, not a string",
		`{"devices": {}}`:                        "devices: []Device cannot be an object",
		`{"devices": [null]}`:                    "devices: element 0 is null",
		`{"devices": [{"id": "a"}, {"ids": 1}]}`: `devices: element 1: unknown field "ids"`,
		`{"stdin_port": -1}`:                     `stdin_port: "-1" is not a number (uint32)`,
		`{"stdin_port": 4294967296}`:             "stdin_port: 4294967296 is out of the range of uint32",
		`{"sandbox_pidns": "true"}`:              `sandbox_pidns: bool cannot be a string`,
		`{"sandbox_pidns": 1}`:                   "sandbox_pidns: bool cannot be a number",
		`{"OCI": {"Linux": {"Seccomp": "x"}}}`:   "OCI: Linux: Seccomp: LinuxSeccomp is a message",
		`{"container_id": "c"`:                   "JSON: it ends too early",
		`{} {}`:                                  "JSON: there is something after the value",
		`[]`:                                     "CreateContainerRequest is a message",
		``:                                       "JSON: it ends too early",
		`{"OCI": {"Annotations": ["a"]}}`:        "OCI: Annotations: map[string]string cannot be a list",
		`{"OCI": {"Process": {"Args": "sh"}}}`:   "OCI: Process: Args: []string cannot be a string",
		`{"OCI": {"Process": {"User": {"Umask":{}}}}}`: "Umask: optional uint32 cannot be an object",
	} {
		err := message.DecodeJSON([]byte(json), &agentpb.CreateContainerRequest{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", json, err, want)
		}
	}
	if err := message.DecodeJSON([]byte(`{"data":"*"}`), &agentpb.WriteStreamRequest{}); err == nil || !strings.Contains(err.Error(), "base64") {
		t.Errorf("bytes that are not base64: %v", err)
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
	for _, tt := range []struct {
		name       string
		pairs      pairs
		into, want any
	}{
		{"scalars, with bases", pairs{{"path", "/x"}, {"file_mode", "0644"}, {"uid", "-1"}, {"offset", "0x10"}},
			&agentpb.CopyFileRequest{}, &agentpb.CopyFileRequest{Path: "/x", FileMode: 0o644, Uid: -1, Offset: 16}},
		{"a nested field", pairs{{"string_user.uid", "1"}, {"string_user.gid", "2"}},
			&agentpb.CreateContainerRequest{}, &agentpb.CreateContainerRequest{StringUser: &agentpb.StringUser{Uid: "1", Gid: "2"}}},
		{"a list replaces, then appends", pairs{{"dns", "a"}, {"dns", "b"}},
			&agentpb.CreateSandboxRequest{Dns: []string{"old"}}, &agentpb.CreateSandboxRequest{Dns: []string{"a", "b"}}},
		{"a list as JSON, then appended", pairs{{"dns", `["a"]`}, {"dns", "b"}},
			&agentpb.CreateSandboxRequest{}, &agentpb.CreateSandboxRequest{Dns: []string{"a", "b"}}},
		{"a list of messages", pairs{{"storages", `{"driver":"a"}`}, {"storages", `{"driver":"b"}`}},
			&agentpb.CreateSandboxRequest{}, &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{{Driver: "a"}, {Driver: "b"}}}},
		{"numbers in a list", pairs{{"PCIPath", "1"}, {"PCIPath", "2"}},
			&agentpb.AddSwapRequest{}, &agentpb.AddSwapRequest{PCIPath: []uint32{1, 2}}},
		{"a message as JSON, then a field of it", pairs{{"interface", `{"name":"eth0"}`}, {"interface.mtu", "1400"}},
			&agentpb.UpdateInterfaceRequest{}, &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "eth0", Mtu: 1400}}},
		{"an entry of a map", pairs{{"OCI.Annotations.a.b", "c"}},
			&agentpb.CreateContainerRequest{}, &agentpb.CreateContainerRequest{OCI: &ocipb.Spec{Annotations: map[string]string{"a.b": "c"}}}},
		{"bytes are text", pairs{{"data", `{"not": "parsed"}`}},
			&agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte(`{"not": "parsed"}`)}},
		{"bytes from a file", pairs{{"data", "file:///f"}}, &agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte("contents")}},
		{"bytes from base64", pairs{{"data", "base64://AAE="}}, &agentpb.WriteStreamRequest{}, &agentpb.WriteStreamRequest{Data: []byte{0, 1}}},
		{"an optional value of zero", pairs{{"swap", "false"}}, &agentpb.MemAgentMemcgConfig{}, &agentpb.MemAgentMemcgConfig{Swap: ptr(false)}},
		{"an empty string", pairs{{"container_id", ""}}, &agentpb.StartContainerRequest{ContainerId: "x"}, &agentpb.StartContainerRequest{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := message.NewAssigner(tt.into, files)
			for _, p := range tt.pairs {
				if err := a.Set(p[0], p[1]); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, tt.into); diff != "" {
				t.Error(diff)
			}
		})
	}
	for pair, want := range map[[2]string]string{
		{"nope", "1"}:               `nope: unknown field "nope"`,
		{"container_id.x", "1"}:     "container_id.x: container_id is string, which has no field x",
		{"OCI", "text"}:             "OCI: Spec is written as JSON",
		{"stdin_port", "x"}:         `stdin_port: "x" is not a number (uint32)`,
		{"devices.id", "x"}:         "devices.id: devices is []Device, which has no field id",
		{"OCI.Linux.Nope", "x"}:     `unknown field "Nope"`,
		{"OCI.Annotations", "text"}: "map[string]string is written as JSON",
	} {
		err := message.NewAssigner(&agentpb.CreateContainerRequest{}, files).Set(pair[0], pair[1])
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", pair, err, want)
		}
	}
}

func TestFieldsTellTheirTypes(t *testing.T) {
	got := map[string]string{}
	for _, f := range message.Fields(&agentpb.CreateContainerRequest{}) {
		got[f.Name] = f.Type
	}
	for _, f := range message.FieldsAt(&agentpb.UpdateInterfaceRequest{}, "interface") {
		got["interface."+f.Name] = f.Type
	}
	for _, f := range append(message.Fields(&typespb.IPAddress{}), message.Fields(&agentpb.WriteStreamRequest{})...) {
		got[f.Name] = f.Type
	}
	for name, want := range map[string]string{
		"container_id": "string", "OCI": "Spec", "devices": "[]Device", "sandbox_pidns": "bool",
		"interface.mtu": "uint64", "interface.IPAddresses": "[]IPAddress",
		"family": "IPFamily (v4, v6)", "data": "bytes",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
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

func FuzzDecodeJSON(f *testing.F) {
	f.Add(`{"OCI":{"Linux":{"Resources":{"Rdma":{"x":{"HcaHandles":1}}}}}}`)
	f.Add(`{"devices":[{"options":["a"]}],"stdin_port":"7"}`)
	f.Fuzz(func(_ *testing.T, text string) {
		_ = message.DecodeJSON([]byte(text), &agentpb.CreateContainerRequest{})
	})
}
