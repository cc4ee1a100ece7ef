package api

// GuestCID is the context id of a pod's guest (vsock(7)). It need not be unique:
// each guest has a virtio-vsock device of its own, in its shim.
const GuestCID = 3

// Ports of virtio-vsock. The first three are the guest's, upstream's numbers;
// PortReady is the host's.
const (
	// PortAgent is where the agent serves ttRPC (agent.server_addr).
	PortAgent = 1024
	// PortConsole is the debug console's, when the configuration asks for it
	// (agent.debug_console_vport).
	PortConsole = 1026
	// PortStreams is where the agent takes the connections that carry standard
	// input, output and error of processes.
	PortStreams = 1027
	// PortReady is the port of the host that the agent connects to once it
	// listens (agent.ready_vport).
	PortReady = 1028
)

// ShareTag is the tag of the virtio-fs device that carries the pod's files, and
// so the source of its mount in the guest (virtio 1.2, 5.11.4).
const ShareTag = "kataShared"

// Paths in the guest, upstream's.
const (
	// GuestRoot is the directory below which the host may have things mounted.
	GuestRoot = "/run/kata-containers"
	// GuestShare is where the share is mounted: root file systems and volumes
	// of the pod's containers, and files that the host copies.
	GuestShare = GuestRoot + "/shared/containers"
	// GuestShm is the pod's /dev/shm.
	GuestShm = GuestRoot + "/sandbox/shm"
)

// The guest's image, which package image/initrd writes and the agent reads.
const (
	// HelperDir is where programs lie that the agent starts for rare calls.
	HelperDir = "/usr/libexec/kata"
	// HelperPacked is what the names of packed ones end with (lib/lzma).
	HelperPacked = ".packed"
	// ModuleDir is where kernel modules lie that the agent loads.
	ModuleDir = "/lib/modules"
	// ModuleList is the file there that lists them (guest/machine/module).
	ModuleList = "kata.list"
	// HelperIPTables is the one of GetIPTables and SetIPTables.
	HelperIPTables = "iptables"
)
