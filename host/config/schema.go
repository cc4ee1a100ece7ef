package config

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// drivers are the names of upstream's [hypervisor.NAME] tables. Only qemu can
// run so far; the others are recognised.
func drivers() []string {
	return []string{
		"qemu", "clh", "cloud-hypervisor", "firecracker", "dragonball",
		"stratovirt", "remote", "acrn", "openvmm",
	}
}

// hypervisorKeys are the keys of [hypervisor.qemu] that take effect.
func hypervisorKeys() []key {
	return []key{
		setPath("path", func(c *Config) *string { return &c.Driver.Path }),
		setPath("kernel", func(c *Config) *string { return &c.Machine.Kernel }),
		setPath("initrd", func(c *Config) *string { return &c.Machine.Initrd }),
		setPath("image", func(c *Config) *string { return &c.Machine.Image }),
		setText("kernel_params", func(c *Config) *string { return &c.Machine.KernelParams }, printable),
		setPath("guest_hook_path", func(c *Config) *string { return &c.Agent.GuestHookPath }),
		setPath("firmware", func(c *Config) *string { return &c.Driver.Firmware }),
		{"machine_type", text, applyMachineType},
		setText("machine_accelerators", func(c *Config) *string { return &c.Driver.MachineAccelerators }, printable),
		setText("cpu_features", func(c *Config) *string { return &c.Driver.CPUFeatures }, printable),
		{"pcie_root_port", integer, applyRootPorts},
		setText("seccompsandbox", func(c *Config) *string { return &c.Driver.SeccompSandbox }, seccompFilter),
		setText("accel", func(c *Config) *string { return &c.Driver.Accel }, oneOf("auto", "kvm", "tcg")),
		{"default_vcpus", number, applyVCPUs},
		{"default_memory", integer, applyMemory},
		{"shared_fs", text, applySharedFS},
		setPath("virtio_fs_daemon", func(c *Config) *string { return &c.FileShare.Daemon }),
		{"virtio_fs_cache", text, applyVirtioFSCache},
		setList("virtio_fs_extra_args", func(c *Config) *[]string { return &c.FileShare.ExtraArgs }, printable),
		{"virtio_fs_queue_size", integer, applyQueueSize},
		setSeconds("stop_timeout", func(c *Config) *time.Duration { return &c.Driver.StopTimeout }),
		setFlag("enable_debug", func(c *Config) *bool { return &c.Driver.Debug }),
	}
}

// agentKeys are the keys of [agent.kata] that take effect. The runtime in Rust
// reads create_container_timeout here and not in [runtime].
func agentKeys() []key {
	return []key{
		setSeconds("dial_timeout", func(c *Config) *time.Duration { return &c.Agent.DialTimeout }),
		setSeconds("create_container_timeout", func(c *Config) *time.Duration { return &c.Runtime.CreateContainerTimeout }),
		setFlag("enable_debug", func(c *Config) *bool { return &c.Agent.Debug }),
		setList("kernel_modules", func(c *Config) *[]string { return &c.Agent.KernelModules }, printable, kernelModule),
		setFlag("debug_console_enabled", func(c *Config) *bool { return &c.Agent.DebugConsole }),
	}
}

// runtimeKeys are the keys of [runtime] that take effect.
func runtimeKeys() []key {
	return []key{
		setFlag("enable_debug", func(c *Config) *bool { return &c.Runtime.Debug }),
		setSeconds("create_container_timeout", func(c *Config) *time.Duration { return &c.Runtime.CreateContainerTimeout }),
		setSeconds("kill_timeout", func(c *Config) *time.Duration { return &c.Runtime.KillTimeout }),
		setList("annotation_config_folders", func(c *Config) *[]string { return &c.Policy.ConfigFolders }, folder),
		setFlag("disable_guest_seccomp", func(c *Config) *bool { return &c.Runtime.DisableGuestSeccomp }),
		{"hypervisor_name", text, onlyName("qemu")},
		{"agent_name", text, onlyName("kata")},
		{"name", text, onlyName("virt_container")},
	}
}

// kernelModule checks a line of kernel_modules: a name, and parameters after it.
func kernelModule(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 || strings.ContainsAny(words[0], "/=") {
		return errors.New(`must be the name of a kernel module and its parameters, as "dummy numdummies=2"`)
	}
	return nil
}

func applyMachineType(d *decoder, value any) error {
	switch value.(string) {
	case "", "q35":
		return nil
	case "pc":
		return notice("not implemented, q35 is used")
	default:
		return errors.New("must be q35")
	}
}

// applyVCPUs follows upstream: 0 is the default, negative is one for each CPU
// of the host, more than the host has is capped. A fraction is rounded up.
func applyVCPUs(d *decoder, value any) error {
	v := value.(float64)
	ceiling := d.host.vcpuCeiling()
	switch {
	case math.IsNaN(v) || v > MaxVCPUs:
		return fmt.Errorf("must be at most %d", MaxVCPUs)
	case v < 0:
		d.config.Machine.VCPUs = ceiling
	case v == 0:
	case math.Ceil(v) > float64(ceiling):
		d.config.Machine.VCPUs = ceiling
		return notice(fmt.Sprintf("the host has %d, which is used", ceiling))
	default:
		d.config.Machine.VCPUs = int(math.Ceil(v))
	}
	return nil
}

func applyMemory(d *decoder, value any) error {
	v := value.(int64)
	if v < MinMemoryMiB {
		return fmt.Errorf("must be at least %d MiB", MinMemoryMiB)
	}
	if most := d.host.MemoryMiB; v > math.MaxUint32 || most > 0 && uint64(v) > most {
		return fmt.Errorf("must not exceed the host's %d MiB", most)
	}
	d.config.Machine.MemoryMiB = uint32(v)
	return nil
}

func applySharedFS(d *decoder, value any) error {
	switch value.(string) {
	case "", "virtio-fs":
		return nil
	case "virtio-9p", "virtio-fs-nydus", "none":
		return errors.New("not implemented yet; only virtio-fs is")
	default:
		return errors.New("must be virtio-fs")
	}
}

func applyVirtioFSCache(d *decoder, value any) error {
	switch s := value.(string); s {
	case "":
	case "none": // the older virtiofsd's word
		d.config.FileShare.Cache = "never"
	case "never", "metadata", "auto", "always":
		d.config.FileShare.Cache = s
	default:
		return errors.New("must be one of never, metadata, auto, always, none")
	}
	return nil
}

// applyQueueSize takes what QEMU's vhost-user-fs-pci accepts.
func applyQueueSize(d *decoder, value any) error {
	const most = 1024
	v := value.(int64)
	switch {
	case v == 0:
	case v < 2 || v > most || v&(v-1) != 0:
		return fmt.Errorf("must be a power of two, 2 to %d", most)
	default:
		d.config.FileShare.QueueSize = uint32(v)
	}
	return nil
}

func applyRootPorts(d *decoder, value any) error {
	const most = 16
	v := value.(int64)
	if v < 0 || v > most {
		return fmt.Errorf("must be 0 to %d", most)
	}
	d.config.Driver.PCIeRootPorts = int(v)
	return nil
}

func onlyName(name string) func(*decoder, any) error {
	return func(_ *decoder, value any) error {
		if s := value.(string); s != "" && s != name {
			return fmt.Errorf("not implemented yet; only %q is", name)
		}
		return nil
	}
}

// printable keeps control characters out of command lines and the guest
// kernel's parameters.
func printable(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("must not contain control characters")
	}
	return nil
}

// seccompFilter takes what -sandbox takes, without its keywords: builds differ.
func seccompFilter(s string) error {
	if s != "" && s != "off" && s != "on" && !strings.HasPrefix(s, "on,") {
		return errors.New(`must be on with options, as in "on,spawn=deny", or off`)
	}
	return printable(s)
}
