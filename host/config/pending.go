package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
)

// The keys of upstream's files, of 2.0.0 and of both runtimes of 4.1.0, that
// have no effect here yet. Values in a line's end are upstream's defaults
// and those that ask for what happens anyway.

func hypervisorPending() []key {
	return slices.Concat(machinePending(), memoryPending(), storagePending(), devicePending(), annotationPending(), protection())
}

// annotationPending say which annotations of pods take effect; none does yet, so
// nobody gets more than they allow. Values are checked as if they had effect.
func annotationPending() []key {
	return []key{
		pendingList("enable_annotations", regular),
		pendingList("valid_hypervisor_paths", pattern),
		pendingList("valid_virtio_fs_daemon_paths", pattern),
	}
}

func regular(s string) error {
	_, err := regexp.Compile(s)
	return err
}

func pattern(s string) error {
	_, err := filepath.Match(s, "")
	return err
}

func machinePending() []key {
	return []key{
		{"default_maxvcpus", integer, ignoreMaxVCPUs},
		pending("firmware_volume", text),
		pending("pflashes", list),
		pending("rootfs_type", text, "ext4"),
		pending("vm_rootfs_driver", text, "virtio-blk-pci", "nvdimm"),
		moot("disable_image_nvdimm", boolean),
		moot("disable_nesting_checks", boolean),
		moot("use_legacy_serial", boolean),
		moot("kernel_verity_params", text),
		moot("boot_to_be_template", boolean),
		moot("boot_from_template", boolean),
		pending("extra_monitor_socket", text),
		pending("dbg_monitor_socket", text),
		pending("default_bridges", integer, int64(1)),
		pending("guest_memory_dump_path", text),
		moot("guest_memory_dump_paging", boolean),
		pending("guest_extension_images", list),
		pending("numa_mapping", list),
		pending("enable_numa", boolean),
	}
}

// ignoreMaxVCPUs: the ceiling for vCPUs added later, which none are. 0 is upstream's
// default, the number of the host's CPUs.
func ignoreMaxVCPUs(_ *decoder, value any) error {
	v := value.(int64)
	switch {
	case v < 0 || v > MaxVCPUs:
		return fmt.Errorf("must be 0 to %d", MaxVCPUs)
	case v == 0:
		return nil
	}
	return errIgnored
}

func memoryPending() []key {
	return []key{
		moot("memory_slots", integer),
		moot("default_maxmemory", integer),
		pending("memory_offset", integer),
		pending("enable_virtio_mem", boolean),
		pending("enable_mem_prealloc", boolean),
		pending("enable_hugepages", boolean),
		pending("enable_swap", boolean),
		pending("enable_guest_swap", boolean),
		moot("guest_swap_path", text),
		moot("guest_swap_size_percent", integer),
		moot("guest_swap_create_threshold_secs", integer),
		pending("reclaim_guest_freed_memory", boolean),
		pending("file_mem_backend", text, "/dev/shm"),
		moot("valid_file_mem_backends", list),
	}
}

// storagePending: a rootfs on a block device is shared by virtio-fs, whatever
// disable_block_device_use says.
func storagePending() []key {
	return []key{
		moot("disable_block_device_use", boolean),
		moot("block_device_driver", text),
		moot("block_device_aio", text),
		moot("block_device_num_queues", integer),
		moot("block_device_queue_size", integer),
		moot("block_device_logical_sector_size", integer),
		moot("block_device_physical_sector_size", integer),
		moot("blk_logical_sector_size", integer),
		moot("blk_physical_sector_size", integer),
		moot("block_device_cache_set", boolean),
		moot("block_device_cache_direct", boolean),
		moot("block_device_cache_noflush", boolean),
		moot("enable_iothreads", boolean),
		moot("indep_iothreads", integer),
		pending("virtio_fs_cache_size", integer),
		pending("virtio_fs_is_dax", boolean),
		pending("virtio_fs_inode_file_handles", text, "prefer"),
		moot("msize_9p", integer),
		pending("enable_vhost_user_store", boolean),
		moot("vhost_user_store_path", text),
		moot("valid_vhost_user_store_paths", list),
		moot("vhost_user_reconnect_timeout_sec", integer),
	}
}

func devicePending() []key {
	return []key{
		pending("enable_iommu", boolean),
		pending("enable_iommu_platform", boolean),
		pending("hotplug_vfio_on_root_bus", boolean),
		pending("hot_plug_vfio", text, "no-port"),
		pending("cold_plug_vfio", text, "no-port"),
		pending("pcie_switch_port", integer),
		moot("disable_vhost_net", boolean),
		pending("network_queues", integer, int64(1)),
		pending("entropy_source", text, "/dev/urandom"),
		moot("valid_entropy_sources", list),
		pending("rx_rate_limiter_max_rate", integer),
		pending("tx_rate_limiter_max_rate", integer),
		pending("disk_rate_limiter_bw_max_rate", integer),
		pending("disk_rate_limiter_bw_one_time_burst", integer),
		pending("disk_rate_limiter_ops_max_rate", integer),
		pending("disk_rate_limiter_ops_one_time_burst", integer),
		pending("net_rate_limiter_bw_max_rate", integer),
		pending("net_rate_limiter_bw_one_time_burst", integer),
		pending("net_rate_limiter_ops_max_rate", integer),
		pending("net_rate_limiter_ops_one_time_burst", integer),
		pending("default_gpus", integer),
		pending("default_gpu_model", text),
	}
}

// protection of the host or of the guest is never ignored.
func protection() []key {
	return []key{
		refused("confidential_guest", boolean, "run the guest unprotected"),
		refused("sev_snp_guest", boolean, "run the guest unprotected"),
		refused("rootless", boolean, "run the VMM as root"),
		moot("disable_seccomp", boolean),
		moot("disable_selinux", boolean),
		moot("disable_guest_selinux", boolean), // the guest kernel has none, as upstream's
		moot("snp_id_block", text),
		moot("snp_id_auth", text),
		moot("snp_guest_policy", integer),
		moot("measurement_algo", text),
		moot("tdx_quote_generation_service_socket_port", integer),
		moot("enable_scsi", boolean),
	}
}

// otherDriverKeys occur only in the tables of drivers that cannot run yet.
func otherDriverKeys() []key {
	return []key{
		moot("jailer_path", text),
		moot("valid_jailer_paths", list),
		moot("ctlpath", text),
		moot("valid_ctlpaths", list),
		moot("remote_hypervisor_socket", text),
		moot("remote_hypervisor_timeout", integer),
		moot("confidential_guest_type", text),
		moot("enable_balloon_f_reporting", boolean),
	}
}

func agentPending() []key {
	return []key{
		pending("enable_tracing", boolean),
		pending("trace_mode", text, "dynamic"),
		pending("trace_type", text, "isolated"),
		pending("container_pipe_size", integer),
		moot("cdh_api_timeout", integer),
		moot("cdh_api_timeout_ms", integer),
		moot("launch_process_timeout", integer),
		pending("server_port", integer, int64(1024)),
		pending("log_port", integer, int64(1025)),
		// The runtime in Rust dials in a loop; here the guest reports that it
		// is ready, within dial_timeout.
		moot("dial_timeout_ms", integer),
		pending("reconnect_timeout_ms", integer, int64(3000)),
		pending("request_timeout_ms", integer, int64(30000)),
		moot("health_check_request_timeout_ms", integer),
		pending("policy", text),
		// In the runtime in Go these are keys, in the one in Rust a table.
		pending("mem_agent_enable", boolean),
	}
}

// memAgentKeys are the keys of [agent.kata.mem_agent], all of which only tune
// what mem_agent_enable turns on.
func memAgentKeys() []key {
	return []key{
		pending("mem_agent_enable", boolean),
		pending("enable", boolean),
		moot("memcg_disable", boolean),
		moot("memcg_swap", boolean),
		moot("memcg_swappiness_max", integer),
		moot("memcg_period_secs", integer),
		moot("memcg_period_psi_percent_limit", integer),
		moot("memcg_eviction_psi_percent_limit", integer),
		moot("memcg_eviction_run_aging_count_min", integer),
		moot("compact_disable", boolean),
		moot("compact_period_secs", integer),
		moot("compact_period_psi_percent_limit", integer),
		moot("compact_psi_percent_limit", integer),
		moot("compact_sec_max", integer),
		moot("compact_order", integer),
		moot("compact_threshold", integer),
		moot("compact_force_times", integer),
		setCreateTimeoutOfMemAgent(),
	}
}

// setCreateTimeoutOfMemAgent: upstream's template shows the key after the
// header of this table, so files have it here and mean [agent.kata].
func setCreateTimeoutOfMemAgent() key {
	for _, k := range agentKeys() {
		if k.name == "create_container_timeout" {
			return k
		}
	}
	return key{}
}

// ignoreNetworkModel: how the pod's network reaches the VM, which it does not yet.
// tcfilter is upstream's default, and none is what happens.
func ignoreNetworkModel(_ *decoder, value any) error {
	switch value.(string) {
	case "", "default", "tcfilter", "none":
		return nil
	case "macvtap", "l3forwarding":
		return errIgnored
	default:
		return errors.New("must be one of tcfilter, macvtap, l3forwarding, none")
	}
}

func runtimePending() []key {
	return []key{
		{"internetworking_model", text, ignoreNetworkModel},
		pending("enable_tracing", boolean),
		moot("jaeger_endpoint", text),
		moot("jaeger_user", text),
		moot("jaeger_password", text),
		pending("disable_new_netns", boolean),
		pending("sandbox_cgroup_only", boolean),
		pending("static_sandbox_resource_mgmt", boolean),
		pending("enable_vcpus_pinning", boolean),
		pending("experimental", list),
		pending("enable_pprof", boolean),
		pending("sandbox_bind_mounts", list),
		pending("shared_mounts", tables),
		moot("vfio_mode", text),
		moot("disable_guest_empty_dir", boolean),
		pending("log_level", text, "info"),
		pending("keep_abnormal", boolean),
		moot("use_passfd_io", boolean),
		moot("passfd_listener_port", integer),
		pending("dan_conf", text, "/run/kata-containers/dans"),
		moot("kubelet_root_dir", text),
		pending("pod_resource_api_sock", text),
		refused("emptydir_mode", text, "keep volumes elsewhere than asked", "shared-fs"),
		refused("guest_selinux_label", text, "run containers without their SELinux label"),
		refused("experimental_force_guest_pull", boolean, "pull images on the host"),
	}
}

func factoryPending() []key {
	return []key{
		pending("enable_template", boolean),
		moot("template_path", text),
		pending("vm_cache_number", integer),
		moot("vm_cache_endpoint", text),
	}
}

func netmonPending() []key {
	return []key{
		pending("enable_netmon", boolean),
		moot("path", text),
		moot("enable_debug", boolean),
	}
}

func imagePending() []key {
	return []key{
		pending("provision", text),
		pending("service_offload", boolean),
	}
}
