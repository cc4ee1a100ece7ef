package stats

import (
	"math"

	"github.com/containerd/cgroups/v3/cgroup1/stats"

	"kata/api/agentpb"
)

// unlimited is how version 1 spells a limit that is none: the largest number
// of whole pages.
const unlimited = math.MaxInt64 &^ 0xfff

func toV1(resp *agentpb.StatsContainerResponse) *stats.Metrics {
	in := resp.GetCgroupStats()
	m := &stats.Metrics{
		Pids:  &stats.PidsStat{Current: in.GetPidsStats().GetCurrent(), Limit: in.GetPidsStats().GetLimit()},
		CPU:   cpuV1(in.GetCpuStats()),
		Blkio: blkioV1(in.GetBlkioStats()),
		Rdma:  &stats.RdmaStat{},
		MemoryOomControl: &stats.MemoryOomControl{
			OomKill: in.GetMemoryStats().GetEvents()["oom_kill"],
		},
		Memory: memoryV1(in.GetMemoryStats()),
	}
	for size, h := range in.GetHugetlbStats() {
		m.Hugetlb = append(m.Hugetlb, &stats.HugetlbStat{Pagesize: size, Usage: h.GetUsage(), Max: h.GetMaxUsage(), Failcnt: h.GetFailcnt()})
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

func cpuV1(in *agentpb.CpuStats) *stats.CPUStat {
	usage, throttling := in.GetCpuUsage(), in.GetThrottlingData()
	return &stats.CPUStat{
		Usage: &stats.CPUUsage{
			Total: usage.GetTotalUsage(), Kernel: usage.GetUsageInKernelmode(), User: usage.GetUsageInUsermode(),
			PerCPU: usage.GetPercpuUsage(),
		},
		Throttling: &stats.Throttle{
			Periods: throttling.GetPeriods(), ThrottledPeriods: throttling.GetThrottledPeriods(),
			ThrottledTime: throttling.GetThrottledTime(),
		},
	}
}

func memoryV1(in *agentpb.MemoryStats) *stats.MemoryStat {
	stat := in.GetStats()
	m := &stats.MemoryStat{
		Cache:        first(stat, "file", "cache"),
		RSS:          first(stat, "anon", "rss"),
		RSSHuge:      first(stat, "anon_thp", "rss_huge"),
		MappedFile:   first(stat, "file_mapped", "mapped_file"),
		Dirty:        first(stat, "file_dirty", "dirty"),
		Writeback:    first(stat, "file_writeback", "writeback"),
		PgPgIn:       first(stat, "pgpgin"),
		PgPgOut:      first(stat, "pgpgout"),
		PgFault:      first(stat, "pgfault"),
		PgMajFault:   first(stat, "pgmajfault"),
		InactiveAnon: first(stat, "inactive_anon"),
		ActiveAnon:   first(stat, "active_anon"),
		InactiveFile: first(stat, "inactive_file"),
		ActiveFile:   first(stat, "active_file"),
		Unevictable:  first(stat, "unevictable"),
		Usage:        entryV1(in.GetUsage()),
		Kernel:       entryV1(in.GetKernelUsage()),
		KernelTCP:    &stats.MemoryEntry{Usage: first(stat, "sock"), Limit: unlimited},
	}
	m.Swap = memoryAndSwap(m.Usage, in.GetSwapUsage())
	m.HierarchicalMemoryLimit, m.HierarchicalSwapLimit = m.Usage.Limit, m.Swap.Limit
	// Version 2 counts the groups below in always, so the totals are the same.
	m.TotalCache, m.TotalRSS, m.TotalRSSHuge, m.TotalMappedFile = m.Cache, m.RSS, m.RSSHuge, m.MappedFile
	m.TotalDirty, m.TotalWriteback = m.Dirty, m.Writeback
	m.TotalPgPgIn, m.TotalPgPgOut, m.TotalPgFault, m.TotalPgMajFault = m.PgPgIn, m.PgPgOut, m.PgFault, m.PgMajFault
	m.TotalInactiveAnon, m.TotalActiveAnon = m.InactiveAnon, m.ActiveAnon
	m.TotalInactiveFile, m.TotalActiveFile, m.TotalUnevictable = m.InactiveFile, m.ActiveFile, m.Unevictable
	return m
}

func entryV1(in *agentpb.MemoryData) *stats.MemoryEntry {
	return &stats.MemoryEntry{
		Usage: in.GetUsage(), Max: in.GetMaxUsage(), Failcnt: in.GetFailcnt(), Limit: limitV1(in.GetLimit()),
	}
}

func limitV1(n uint64) uint64 {
	if n == 0 || n > unlimited {
		return unlimited
	}
	return n
}

// memoryAndSwap is version 1's memsw: memory and swap together, where version 2
// counts swap alone.
func memoryAndSwap(memory *stats.MemoryEntry, swap *agentpb.MemoryData) *stats.MemoryEntry {
	sum := &stats.MemoryEntry{
		Usage: memory.Usage + swap.GetUsage(), Max: memory.Max + swap.GetMaxUsage(), Failcnt: swap.GetFailcnt(),
		Limit: unlimited,
	}
	if memory.Limit < unlimited && swap.GetLimit() < unlimited {
		sum.Limit = memory.Limit + swap.GetLimit()
	}
	return sum
}

func blkioV1(in *agentpb.BlkioStats) *stats.BlkIOStat {
	return &stats.BlkIOStat{
		IoServiceBytesRecursive: entriesV1(in.GetIoServiceBytesRecursive()),
		IoServicedRecursive:     entriesV1(in.GetIoServicedRecursive()),
		IoQueuedRecursive:       entriesV1(in.GetIoQueuedRecursive()),
		IoServiceTimeRecursive:  entriesV1(in.GetIoServiceTimeRecursive()),
		IoWaitTimeRecursive:     entriesV1(in.GetIoWaitTimeRecursive()),
		IoMergedRecursive:       entriesV1(in.GetIoMergedRecursive()),
		IoTimeRecursive:         entriesV1(in.GetIoTimeRecursive()),
		SectorsRecursive:        entriesV1(in.GetSectorsRecursive()),
	}
}

func entriesV1(in []*agentpb.BlkioStatsEntry) []*stats.BlkIOEntry {
	var out []*stats.BlkIOEntry
	for _, e := range in {
		out = append(out, &stats.BlkIOEntry{Op: e.GetOp(), Major: e.GetMajor(), Minor: e.GetMinor(), Value: e.GetValue()})
	}
	return out
}
