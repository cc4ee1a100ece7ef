package stats

import (
	"math"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"kata/api/agentpb"
	"kata/host/untrusted"
)

func sample() *agentpb.StatsContainerResponse {
	return &agentpb.StatsContainerResponse{
		CgroupStats: &agentpb.CgroupStats{
			CpuStats: &agentpb.CpuStats{
				CpuUsage:       &agentpb.CpuUsage{TotalUsage: 3_000_000, UsageInKernelmode: 1_000_000, UsageInUsermode: 2_000_000},
				ThrottlingData: &agentpb.ThrottlingData{Periods: 5, ThrottledPeriods: 2, ThrottledTime: 9000},
				Pressure:       &agentpb.PressureStats{Some: &agentpb.PressureLine{Avg10: 125, Total: 7}},
			},
			MemoryStats: &agentpb.MemoryStats{
				Usage:     &agentpb.MemoryData{Usage: 4096, MaxUsage: 8192, Failcnt: 1, Limit: 1 << 20},
				SwapUsage: &agentpb.MemoryData{Usage: 100, Limit: 1 << 21},
				Stats:     map[string]uint64{"anon": 1000, "file": 2000, "file_mapped": 30, "pgfault": 44, "inactive_file": 5},
				Events:    map[string]uint64{"oom_kill": 3},
			},
			PidsStats: &agentpb.PidsStats{Current: 2, Limit: 10},
			BlkioStats: &agentpb.BlkioStats{
				IoServiceBytesRecursive: []*agentpb.BlkioStatsEntry{
					{Major: 8, Op: "Read", Value: 512}, {Major: 8, Op: "Write", Value: 1024}, {Major: 9, Op: "Read", Value: 1},
				},
				IoServicedRecursive: []*agentpb.BlkioStatsEntry{{Major: 8, Op: "Read", Value: 4}},
			},
			HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 6}},
		},
		NetworkStats: []*agentpb.NetworkStats{{Name: "eth0", RxBytes: 11, TxPackets: 12}},
	}
}

func TestEncodeForV1(t *testing.T) {
	a, err := Encode(sample(), V1)
	if err != nil {
		t.Fatal(err)
	}
	if a.TypeUrl != "io.containerd.cgroups.v1.Metrics" {
		t.Errorf("type %s", a.TypeUrl)
	}
	m := new(v1.Metrics)
	if err := proto.Unmarshal(a.Value, m); err != nil {
		t.Fatal(err)
	}
	type figures struct{ CPU, Throttled, Usage, Limit, Swap, SwapLimit, RSS, TotalRSS, Cache, Faults, Pids, OOM, Read, Huge, Net uint64 }
	got := figures{
		m.CPU.Usage.Total, m.CPU.Throttling.ThrottledTime, m.Memory.Usage.Usage, m.Memory.Usage.Limit,
		m.Memory.Swap.Usage, m.Memory.Swap.Limit, m.Memory.RSS, m.Memory.TotalRSS, m.Memory.TotalCache, m.Memory.PgFault,
		m.Pids.Current, m.MemoryOomControl.OomKill, m.Blkio.IoServiceBytesRecursive[0].Value, m.Hugetlb[0].Usage, m.Network[0].RxBytes,
	}
	want := figures{3_000_000, 9000, 4096, 1 << 20, 4196, 1<<20 + 1<<21, 1000, 1000, 2000, 44, 2, 3, 512, 6, 11}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEncodeForV2(t *testing.T) {
	a, err := Encode(sample(), V2)
	if err != nil {
		t.Fatal(err)
	}
	if a.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("type %s", a.TypeUrl)
	}
	m := new(v2.Metrics)
	if err := proto.Unmarshal(a.Value, m); err != nil {
		t.Fatal(err)
	}
	type figures struct{ CPU, User, Throttled, Usage, Limit, Swap, Anon, File, Faults, Pids, OOM, Read, Write, Reads, Huge, Net uint64 }
	io := m.Io.Usage[0]
	got := figures{
		m.CPU.UsageUsec, m.CPU.UserUsec, m.CPU.ThrottledUsec, m.Memory.Usage, m.Memory.UsageLimit, m.Memory.SwapUsage,
		m.Memory.Anon, m.Memory.File, m.Memory.Pgfault, m.Pids.Current, m.MemoryEvents.OomKill,
		io.Rbytes, io.Wbytes, io.Rios, m.Hugetlb[0].Current, m.Network[0].TxPackets,
	}
	want := figures{3000, 2000, 9, 4096, 1 << 20, 100, 1000, 2000, 44, 2, 3, 512, 1024, 4, 6, 12}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(m.Io.Usage) != 2 || m.CPU.PSI.Some.Avg10 != 1.25 || m.Memory.PSI != nil {
		t.Errorf("io %v, psi %v", m.Io.Usage, m.CPU.PSI)
	}
}

// containerd 1.6 reads through these without a look.
func TestEmptyStatisticsStillHaveEveryPart(t *testing.T) {
	for _, resp := range []*agentpb.StatsContainerResponse{nil, {}} {
		m := toV1(resp)
		if m.CPU.Usage == nil || m.CPU.Throttling == nil || m.Memory.Usage == nil || m.Memory.Swap == nil ||
			m.Memory.Kernel == nil || m.Memory.KernelTCP == nil || m.Pids == nil || m.Blkio == nil || m.MemoryOomControl == nil {
			t.Errorf("v1: %v", m)
		}
		if n := toV2(resp); n.CPU == nil || n.Memory == nil || n.Pids == nil || n.Io == nil || n.MemoryEvents == nil {
			t.Errorf("v2: %v", n)
		}
	}
}

func TestNoLimitIsSpeltAsEachVersionDoes(t *testing.T) {
	in := sample()
	in.CgroupStats.MemoryStats.Usage.Limit = math.MaxUint64
	m := toV1(in).Memory
	if m.Usage.Limit != 9223372036854771712 || m.Swap.Limit != 9223372036854771712 {
		t.Errorf("v1 limits %d, %d", m.Usage.Limit, m.Swap.Limit)
	}
	if n := toV2(in).Memory; n.UsageLimit != math.MaxUint64 {
		t.Errorf("v2 limit %d", n.UsageLimit)
	}
}

func TestStatisticsOfALyingGuestAreBounded(t *testing.T) {
	for _, layout := range []Layout{V1, V2} {
		resp := &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
			BlkioStats:   &agentpb.BlkioStats{},
			CpuStats:     &agentpb.CpuStats{CpuUsage: &agentpb.CpuUsage{PercpuUsage: make([]uint64, 100_000)}},
			HugetlbStats: make(map[string]*agentpb.HugetlbStats),
		}}
		for n := range 5000 {
			bad := "\xff\x1b[2J" + strings.Repeat("x", 300) + strconv.Itoa(n)
			resp.NetworkStats = append(resp.NetworkStats, &agentpb.NetworkStats{Name: bad})
			resp.CgroupStats.BlkioStats.IoServicedRecursive = append(resp.CgroupStats.BlkioStats.IoServicedRecursive, &agentpb.BlkioStatsEntry{Op: bad})
			resp.CgroupStats.HugetlbStats[bad] = &agentpb.HugetlbStats{}
		}
		encoded, err := Encode(resp, layout)
		if err != nil || len(encoded.Value) > 3*maxEntries*(untrusted.MaxID+64) {
			t.Errorf("layout %d: %d bytes, %v", layout, len(encoded.GetValue()), err)
		}
	}
}
