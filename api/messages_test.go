package api_test

import (
	"testing"

	"kata/api/agentpb"
	"kata/api/csipb"
	"kata/api/healthpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/api/typespb"
)

// FuzzMessages decodes arbitrary bytes as the messages that cross the border
// between host and guest. What decodes, encodes, decodes again and keeps its
// size.
func FuzzMessages(f *testing.F) {
	messages := []func() ttrpc.Message{
		func() ttrpc.Message { return new(agentpb.CreateContainerRequest) },
		func() ttrpc.Message { return new(agentpb.CreateSandboxRequest) },
		func() ttrpc.Message { return new(agentpb.StatsContainerResponse) },
		func() ttrpc.Message { return new(agentpb.WaitProcessResponse) },
		func() ttrpc.Message { return new(agentpb.MemAgentMemcgConfig) },
		func() ttrpc.Message { return new(agentpb.Routes) },
		func() ttrpc.Message { return new(csipb.VolumeStatsResponse) },
		func() ttrpc.Message { return new(healthpb.VersionCheckResponse) },
		func() ttrpc.Message { return new(ocipb.Spec) },
		func() ttrpc.Message { return new(typespb.Interface) },
	}
	umask := uint32(0)
	for i, m := range []ttrpc.Message{
		&agentpb.CreateContainerRequest{ContainerId: "c", StdinPort: 1, OCI: &ocipb.Spec{
			Process:     &ocipb.Process{User: &ocipb.User{Umask: &umask, AdditionalGids: []uint32{1, 2}}, Args: []string{"sh"}},
			Annotations: map[string]string{"a": "b"},
			Linux: &ocipb.Linux{
				Seccomp:     &ocipb.LinuxSeccomp{Filters: [][]byte{{1, 2, 3}}},
				Resources:   &ocipb.LinuxResources{Unified: map[string]string{"memory.high": "1"}},
				TimeOffsets: map[string]*ocipb.LinuxTimeOffset{"boottime": {Secs: -1}},
			},
		}},
		&agentpb.CreateSandboxRequest{Hostname: "h", Storages: []*agentpb.Storage{{Driver: "d"}}},
		&agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{MemoryStats: &agentpb.MemoryStats{Stats: map[string]uint64{"anon": 1}}}},
	} {
		f.Add(uint8(i), encode(f, m))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		make := messages[int(which)%len(messages)]
		m := make()
		if m.UnmarshalVT(data) != nil {
			return
		}
		b := encode(t, m)
		again := make()
		if err := again.UnmarshalVT(b); err != nil {
			t.Fatalf("own encoding does not decode: %v", err)
		}
		if got := again.SizeVT(); got != len(b) {
			t.Fatalf("%d bytes became %d", len(b), got)
		}
	})
}

func encode(t testing.TB, m ttrpc.Message) []byte {
	b := make([]byte, m.SizeVT())
	if n, err := m.MarshalToSizedBufferVT(b); err != nil || n != len(b) {
		t.Fatalf("encoded %d of %d bytes: %v", n, len(b), err)
	}
	return b
}
