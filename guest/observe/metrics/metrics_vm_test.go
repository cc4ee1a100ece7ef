//go:build vmtest

package metrics

import (
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// TestNamesAreUpstreams: what its documentation lists, with its items, is there
// with the guest's kernel.
func TestNamesAreUpstreams(t *testing.T) {
	families := scrape(t, string(new(Collector).Collect()))
	for name, items := range map[string]string{
		"kata_agent_scrape_count":                  "",
		"kata_agent_threads":                       "",
		"kata_agent_total_time":                    "",
		"kata_agent_total_vm":                      "",
		"kata_agent_total_rss":                     "",
		"kata_agent_proc_status":                   "hugetlbpages nonvoluntary_ctxt_switches rssanon rssfile rssshmem vmdata vmexe vmhwm vmlck vmlib vmpeak vmpin vmpte vmrss vmsize vmstk vmswap voluntary_ctxt_switches",
		"kata_agent_proc_stat":                     "cstime cutime stime utime",
		"kata_agent_io_stat":                       "cancelled_write_bytes rchar read_bytes syscr syscw wchar write_bytes",
		"kata_agent_process_cpu_seconds_total":     "",
		"kata_agent_process_max_fds":               "",
		"kata_agent_process_open_fds":              "",
		"kata_agent_process_resident_memory_bytes": "",
		"kata_agent_process_start_time_seconds":    "",
		"kata_agent_process_virtual_memory_bytes":  "",
		"kata_guest_load":                          "load1 load5 load15",
		"kata_guest_tasks":                         "cur max",
		"kata_guest_cpu_time":                      "guest guest_nice idle iowait irq nice softirq steal system user",
		"kata_guest_netdev_stat":                   "recv_bytes recv_compressed recv_drop recv_errs recv_fifo recv_frame recv_multicast recv_packets sent_bytes sent_carrier sent_colls sent_compressed sent_drop sent_errs sent_fifo sent_packets",
		"kata_guest_meminfo":                       "active active_anon active_file anon_hugepages anon_pages bounce buffers cached cma_free cma_total commit_limit committed_as direct_map_1G direct_map_2M direct_map_4M direct_map_4k dirty hardware_corrupted high_free high_total hugepages_free hugepages_rsvd hugepages_surp hugepages_total hugepagesize hugetlb inactive inactive_anon inactive_file k_reclaimable kernel_stack low_free low_total mapped mem_available mem_free mem_total mlocked mmap_copy nfs_unstable page_tables per_cpu quicklists s_reclaimable s_unreclaim shmem shmem_hugepages shmem_pmd_mapped slab swap_cached swap_free swap_total unevictable vmalloc_chunk vmalloc_total vmalloc_used writeback writeback_tmp",
		"kata_guest_vm_stat":                       "nr_free_pages oom_kill pgfault",
	} {
		family := families[name]
		if family == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		kind := dto.MetricType_GAUGE
		if name == "kata_agent_scrape_count" || name == "kata_agent_process_cpu_seconds_total" {
			kind = dto.MetricType_COUNTER
		}
		if family.GetType() != kind {
			t.Errorf("%s is a %s", name, family.GetType())
		}
		for item := range strings.FieldsSeq(items) {
			if !slices.ContainsFunc(family.Metric, func(m *dto.Metric) bool { return itemOf(m) == item }) {
				t.Errorf("%s has no %s", name, item)
			}
		}
		have := len(family.Metric)
		if items == "" && have != 1 || items != "" && name != "kata_guest_vm_stat" && have%len(strings.Fields(items)) != 0 {
			t.Errorf("%s has %d samples", name, have)
		}
	}
	for _, name := range []string{"kata_agent_total_vm", "kata_agent_total_rss", "kata_agent_threads", "kata_agent_process_start_time_seconds"} {
		if value := families[name].GetMetric()[0].GetGauge().GetValue(); value <= 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

// itemOf returns the label that tells the samples of a family apart; "" is none.
func itemOf(m *dto.Metric) string {
	for _, label := range m.Label {
		if label.GetName() == "item" {
			return label.GetValue()
		}
	}
	return ""
}
