package stats

import (
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2/stats"

	"kata/api/agentpb"
)

const nsecPerUsec = 1000

func toV2(resp *agentpb.StatsContainerResponse) *stats.Metrics {
	in := resp.GetCgroupStats()
	events := in.GetMemoryStats().GetEvents()
	m := &stats.Metrics{
		Pids:   &stats.PidsStat{Current: in.GetPidsStats().GetCurrent(), Limit: in.GetPidsStats().GetLimit()},
		CPU:    cpuV2(in.GetCpuStats()),
		Memory: memoryV2(in.GetMemoryStats()),
		Rdma:   &stats.RdmaStat{},
		Io:     &stats.IOStat{Usage: ioV2(in.GetBlkioStats()), PSI: psi(in.GetBlkioStats().GetPressure())},
		MemoryEvents: &stats.MemoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"],
			Oom: events["oom"], OomKill: events["oom_kill"], OomGroupKill: events["oom_group_kill"],
		},
	}
	for size, h := range in.GetHugetlbStats() {
		m.Hugetlb = append(m.Hugetlb, &stats.HugeTlbStat{Pagesize: size, Current: h.GetUsage(), Max: h.GetMaxUsage(), Failcnt: h.GetFailcnt()})
	}
	for _, n := range resp.GetNetworkStats() {
		m.Network = append(m.Network, &stats.NetworkStat{
			Name:    n.GetName(),
			RxBytes: n.GetRxBytes(), RxPackets: n.GetRxPackets(), RxErrors: n.GetRxErrors(), RxDropped: n.GetRxDropped(),
			TxBytes: n.GetTxBytes(), TxPackets: n.GetTxPackets(), TxErrors: n.GetTxErrors(), TxDropped: n.GetTxDropped(),
		})
	}
	return m
}

func cpuV2(in *agentpb.CpuStats) *stats.CPUStat {
	usage, throttling := in.GetCpuUsage(), in.GetThrottlingData()
	return &stats.CPUStat{
		UsageUsec:     usage.GetTotalUsage() / nsecPerUsec,
		UserUsec:      usage.GetUsageInUsermode() / nsecPerUsec,
		SystemUsec:    usage.GetUsageInKernelmode() / nsecPerUsec,
		NrPeriods:     throttling.GetPeriods(),
		NrThrottled:   throttling.GetThrottledPeriods(),
		ThrottledUsec: throttling.GetThrottledTime() / nsecPerUsec,
		PSI:           psi(in.GetPressure()),
	}
}

func memoryV2(in *agentpb.MemoryStats) *stats.MemoryStat {
	stat := in.GetStats()
	usage, swap := in.GetUsage(), in.GetSwapUsage()
	return &stats.MemoryStat{
		Anon:                  first(stat, "anon", "rss"),
		File:                  first(stat, "file", "cache"),
		KernelStack:           first(stat, "kernel_stack"),
		Slab:                  first(stat, "slab"),
		Sock:                  first(stat, "sock"),
		Shmem:                 first(stat, "shmem"),
		FileMapped:            first(stat, "file_mapped", "mapped_file"),
		FileDirty:             first(stat, "file_dirty", "dirty"),
		FileWriteback:         first(stat, "file_writeback", "writeback"),
		AnonThp:               first(stat, "anon_thp", "rss_huge"),
		InactiveAnon:          first(stat, "inactive_anon"),
		ActiveAnon:            first(stat, "active_anon"),
		InactiveFile:          first(stat, "inactive_file"),
		ActiveFile:            first(stat, "active_file"),
		Unevictable:           first(stat, "unevictable"),
		SlabReclaimable:       first(stat, "slab_reclaimable"),
		SlabUnreclaimable:     first(stat, "slab_unreclaimable"),
		Pgfault:               first(stat, "pgfault"),
		Pgmajfault:            first(stat, "pgmajfault"),
		WorkingsetRefault:     first(stat, "workingset_refault", "workingset_refault_file"),
		WorkingsetActivate:    first(stat, "workingset_activate", "workingset_activate_file"),
		WorkingsetNodereclaim: first(stat, "workingset_nodereclaim"),
		Pgrefill:              first(stat, "pgrefill"),
		Pgscan:                first(stat, "pgscan"),
		Pgsteal:               first(stat, "pgsteal"),
		Pgactivate:            first(stat, "pgactivate"),
		Pgdeactivate:          first(stat, "pgdeactivate"),
		Pglazyfree:            first(stat, "pglazyfree"),
		Pglazyfreed:           first(stat, "pglazyfreed"),
		ThpFaultAlloc:         first(stat, "thp_fault_alloc"),
		ThpCollapseAlloc:      first(stat, "thp_collapse_alloc"),
		Usage:                 usage.GetUsage(), UsageLimit: usage.GetLimit(), MaxUsage: usage.GetMaxUsage(),
		SwapUsage: swap.GetUsage(), SwapLimit: swap.GetLimit(), SwapMaxUsage: swap.GetMaxUsage(),
		PSI: psi(in.GetPressure()),
	}
}

// ioV2 gathers the entries of each device, which come one for each kind of
// operation.
func ioV2(in *agentpb.BlkioStats) []*stats.IOEntry {
	type device struct{ major, minor uint64 }
	index := make(map[device]*stats.IOEntry)
	var out []*stats.IOEntry
	of := func(e *agentpb.BlkioStatsEntry) *stats.IOEntry {
		d := device{e.GetMajor(), e.GetMinor()}
		if index[d] == nil {
			index[d] = &stats.IOEntry{Major: d.major, Minor: d.minor}
			out = append(out, index[d])
		}
		return index[d]
	}
	for _, e := range in.GetIoServiceBytesRecursive() {
		switch strings.ToLower(e.GetOp()) {
		case "read":
			of(e).Rbytes += e.GetValue()
		case "write":
			of(e).Wbytes += e.GetValue()
		}
	}
	for _, e := range in.GetIoServicedRecursive() {
		switch strings.ToLower(e.GetOp()) {
		case "read":
			of(e).Rios += e.GetValue()
		case "write":
			of(e).Wios += e.GetValue()
		}
	}
	return out
}

func psi(in *agentpb.PressureStats) *stats.PSIStats {
	if in == nil {
		return nil // the guest's kernel does not measure it
	}
	line := func(l *agentpb.PressureLine) *stats.PSIData {
		return &stats.PSIData{
			Avg10: float64(l.GetAvg10()) / 100, Avg60: float64(l.GetAvg60()) / 100, Avg300: float64(l.GetAvg300()) / 100,
			Total: l.GetTotal(),
		}
	}
	return &stats.PSIStats{Some: line(in.GetSome()), Full: line(in.GetFull())}
}
