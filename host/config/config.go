// Package config reads configuration.toml, the file by which an operator tells
// the runtime how to run pods, and turns it into validated values.
//
// Sections and keys are upstream's, so a file written for upstream loads here.
// A key falls in one of four classes: it takes effect; it is known and cannot
// take effect yet (accepted, and listed in Config.Warnings when its value asks
// for something else than what happens anyway); it is known, not implemented,
// and ignoring it would weaken what the operator asked for (an error); it is
// unknown (an error). docs/configuration.md lists every key.
//
// The life cycle is Load, then Check, then plain reading: Load finds, decodes
// and validates the file and touches nothing else of the host; Check completes
// empty paths from the search lists and verifies that the files a VM needs are
// there. After Check a Config is never written again and may be shared.
//
// The package does not start anything, does not probe the accelerator and does
// not know about annotations other than the one that names the file.
package config

import "time"

// Limits of the values a file may hold.
const (
	// MaxVCPUs is the most vCPUs a VM may have: what upstream allows for q35.
	MaxVCPUs = 240
	// MinMemoryMiB is the least guest memory with which the guest boots and
	// leaves room for a container.
	MinMemoryMiB = 128
)

// Config is everything an operator can decide about how pods run. The zero
// value is not valid: get one from Load or Default.
type Config struct {
	// Path is the file the values came from, as it was named; "" when no file
	// was found and the values are the built-in defaults.
	Path string
	// Machine, Driver and FileShare hold the keys of the table
	// [hypervisor.qemu]: what a pod's virtual machine is, which program runs it
	// and how, and how files reach it.
	Machine   Machine
	Driver    Driver
	FileShare FileShare
	// Policy says what a pod may decide for itself.
	Policy Policy
	// Agent holds the keys of the table [agent.kata].
	Agent Agent
	// Runtime holds the keys of the table [runtime].
	Runtime Runtime
	// Warnings lists keys that were accepted and do not take effect, in the
	// order of the file. The shim logs them once a pod.
	Warnings []Warning

	byPod  bool   // a pod's annotation names the file: errors quote nothing of it
	source source // the file's text, for the lines that errors of Check name
}

// Machine says what the virtual machine of a pod is. Paths may be empty until
// Check has filled them from its search lists.
type Machine struct {
	// Kernel is the guest kernel: a PVH vmlinux or a bzImage.
	Kernel string
	// Initrd is the guest's initrd. Exactly one of Initrd and Image is set
	// after Check.
	Initrd string
	// Image is the guest's root disk image.
	Image string
	// KernelParams are appended to the guest kernel's command line,
	// separated by spaces.
	KernelParams string
	// VCPUs is the number of vCPUs at boot, 1..MaxVCPUs, from default_vcpus:
	// already resolved (unset or 0 is 1, negative is one per host CPU) and
	// not above the number of host CPUs.
	VCPUs int
	// MemoryMiB is the guest's memory at boot in MiB, from default_memory.
	MemoryMiB uint32
}

// Driver says which VMM runs the machine, and how. Path may be empty until Check
// has filled it from its search list.
type Driver struct {
	// Name is the driver, from the name of the table: always "qemu" so far.
	Name string
	// Path is the VMM's binary.
	Path string
	// Accel is "auto", "kvm" or "tcg". An addition of ours.
	Accel string
	// Firmware is the VMM's firmware; "" is the driver's choice.
	Firmware string
	// MachineType is QEMU's machine: "q35".
	MachineType string
	// MachineAccelerators are more options of -machine, separated by commas.
	MachineAccelerators string
	// CPUFeatures are appended to the CPU model, separated by commas.
	CPUFeatures string
	// SeccompSandbox is QEMU's -sandbox; "" is the driver's choice, the strictest
	// that the build takes, and "off" is none.
	SeccompSandbox string
	// PCIeRootPorts is how many devices may be plugged in later at a time, 0..16;
	// 0 is the driver's choice.
	PCIeRootPorts int
	// StopTimeout bounds the orderly end of the VM, after which the VMM is
	// killed. stop_timeout, an addition of ours; seconds in the file.
	StopTimeout time.Duration
	// Debug asks for the VMM's and the guest kernel's messages.
	Debug bool
}

// FileShare says how files reach the guest. Daemon may be empty until Check has
// filled it from its search list.
type FileShare struct {
	// Kind is shared_fs: "virtio-fs".
	Kind string
	// Daemon is virtiofsd's binary.
	Daemon string
	// Cache is the cache mode: "never", "metadata", "auto" or "always".
	// Upstream's older word "none" arrives here as "never".
	Cache string
	// ExtraArgs are appended to virtiofsd's arguments.
	ExtraArgs []string
	// QueueSize is the length of the request queue, a power of two.
	QueueSize uint32
}

// Policy says what a pod may decide for itself.
type Policy struct {
	// ConfigFolders are absolute folders of the host: a pod's annotation
	// AnnotationPath may name a file below one of them, and no other.
	// annotation_config_folders, an addition of ours.
	ConfigFolders []string
}

// Agent says how the shim and the agent in the guest work together.
type Agent struct {
	// DialTimeout bounds the boot: from the start of the VMM until the agent
	// answers. A guest that is not up by then is ended. Seconds in the file.
	DialTimeout time.Duration
	// KernelModules are loaded in the guest before anything of a pod is made:
	// each a name, and parameters after it, separated by spaces.
	KernelModules []string
	// Debug makes the agent log at debug level.
	Debug bool
	// GuestHookPath is a folder of the guest with hooks, "" for none; a key of
	// [hypervisor.qemu].
	GuestHookPath string
	// DebugConsole makes the agent give shells to who connects to its console
	// port, if the guest's image has one.
	DebugConsole bool
}

// Runtime says how the shim behaves.
type Runtime struct {
	// CreateContainerTimeout bounds the agent's work on one CreateContainer
	// request. Seconds in the file.
	CreateContainerTimeout time.Duration
	// KillTimeout bounds the time from SIGKILL to a container's first process until
	// its exit, after which the VM is stopped. kill_timeout, an addition of ours;
	// seconds in the file.
	KillTimeout time.Duration
	// DisableGuestSeccomp drops seccomp profiles instead of applying them in
	// the guest.
	DisableGuestSeccomp bool
	// Debug makes the shim log at debug level.
	Debug bool
}

// Default returns the built-in values: those of a file in which every key is
// absent. Paths are empty; Check fills them.
func Default() *Config {
	return &Config{
		Machine:   Machine{VCPUs: 1, MemoryMiB: 2048},
		Driver:    Driver{Name: "qemu", Accel: "auto", MachineType: "q35", StopTimeout: 10 * time.Second},
		FileShare: FileShare{Kind: "virtio-fs", Cache: "auto", QueueSize: 1024},
		Agent:     Agent{DialTimeout: 45 * time.Second},
		Runtime: Runtime{
			CreateContainerTimeout: 60 * time.Second,
			KillTimeout:            10 * time.Second,
			DisableGuestSeccomp:    true,
		},
	}
}
