package metrics

import "strings"

// guest writes what concerns the machine.
func (p *page) guest() {
	if average := p.file("loadavg"); average != "" {
		// Three averages, then "running/all" tasks.
		p.gauge("kata_guest_load", "Guest system load")
		p.columns("load1 load5 load15", average)
		p.gauge("kata_guest_tasks", "Guest tasks")
		p.columns("cur max", strings.Replace(strings.Fields(average + " - - - 0/0")[3], "/", " ", 1))
	}
	p.gauge("kata_guest_cpu_time", "Guest CPU statistics in clock ticks")
	for line := range strings.Lines(p.file("stat")) {
		cpu, rest := word(line)
		if cpu == "cpu" {
			cpu = "cputotal"
		}
		if number, ok := strings.CutPrefix(cpu, "cpu"); ok {
			p.label("cpu", number)
			p.columns("user nice system idle iowait irq softirq steal guest guest_nice", rest)
		}
	}
	p.gauge("kata_guest_vm_stat", "Guest virtual memory statistics")
	for line := range strings.Lines(p.file("vmstat")) {
		item, rest := word(line)
		p.columns(item, rest)
	}
	p.devices()
	p.gauge("kata_guest_meminfo", "Statistics about memory usage in the system, amounts in bytes")
	p.table("meminfo", memoryItems, memoryKeys, 1024)
}

func (p *page) devices() {
	p.gauge("kata_guest_netdev_stat", "Guest net devices statistics")
	for line := range strings.Lines(p.file("net/dev")) {
		// Two lines of headings have no colon.
		if i := strings.LastIndexByte(line, ':'); i >= 0 {
			name, _ := word(line[:i])
			p.label("interface", name)
			p.columns("recv_bytes recv_packets recv_errs recv_drop recv_fifo recv_frame recv_compressed recv_multicast "+
				"sent_bytes sent_packets sent_errs sent_drop sent_fifo sent_colls sent_carrier sent_compressed", line[i+1:])
		}
	}
	p.gauge("kata_guest_diskstat", "Disks statistics in system, times in milliseconds")
	for line := range strings.Lines(p.file("diskstats")) {
		_, rest := word(line) // the device's numbers
		_, rest = word(rest)
		name, rest := word(rest)
		p.label("disk", name)
		p.columns("reads merged sectors_read time_reading writes writes_merged sectors_written time_writing "+
			"in_progress time_in_progress weighted_time_in_progress "+
			"discards discards_merged sectors_discarded time_discarding flushes time_flushing", rest)
	}
}

const (
	memoryItems = "mem_total mem_free mem_available buffers cached swap_cached " +
		"active inactive active_anon inactive_anon active_file inactive_file unevictable mlocked " +
		"high_total high_free low_total low_free mmap_copy swap_total swap_free dirty writeback " +
		"anon_pages mapped shmem k_reclaimable slab s_reclaimable s_unreclaim " +
		"kernel_stack page_tables quicklists nfs_unstable bounce writeback_tmp commit_limit committed_as " +
		"vmalloc_total vmalloc_used vmalloc_chunk per_cpu hardware_corrupted " +
		"anon_hugepages shmem_hugepages shmem_pmd_mapped cma_total cma_free " +
		"hugepages_total hugepages_free hugepages_rsvd hugepages_surp hugepagesize hugetlb " +
		"direct_map_4k direct_map_4M direct_map_2M direct_map_1G"
	memoryKeys = "MemTotal MemFree MemAvailable Buffers Cached SwapCached " +
		"Active Inactive Active(anon) Inactive(anon) Active(file) Inactive(file) Unevictable Mlocked " +
		"HighTotal HighFree LowTotal LowFree MmapCopy SwapTotal SwapFree Dirty Writeback " +
		"AnonPages Mapped Shmem KReclaimable Slab SReclaimable SUnreclaim " +
		"KernelStack PageTables Quicklists NFS_Unstable Bounce WritebackTmp CommitLimit Committed_AS " +
		"VmallocTotal VmallocUsed VmallocChunk Percpu HardwareCorrupted " +
		"AnonHugePages ShmemHugePages ShmemPmdMapped CmaTotal CmaFree " +
		"HugePages_Total HugePages_Free HugePages_Rsvd HugePages_Surp Hugepagesize Hugetlb " +
		"DirectMap4k DirectMap4M DirectMap2M DirectMap1G"
)
