// Package qemu drives QEMU as a [vmm.Machine].
//
// Building the command line is pure (arguments.go, cmdline.go) and tested
// against golden files; what it depends on in the machine at hand (firmware,
// clock rate, partition table) is found out first (preflight.go), with a
// one-line error for what is missing; life cycle is apart (machine.go).
//
// QEMU gets its control channel and its console as one end of a socket pair
// each, so there is nothing to connect to, nothing to wait for and nobody else
// who could connect. It does not outlive this process (process.Spawner), and
// its end, whatever the reason, is noticed at once.
//
// The package knows nothing of agents, containers or the devices' backends.
package qemu

import (
	"fmt"
	"strings"

	"kata/host/vmm"
)

// Config is what an operator may choose about QEMU, the same for every
// machine. The zero value of each field but Path is a good choice.
type Config struct {
	// Path of the QEMU binary, or its name, looked up in $PATH.
	Path string
	// Firmware lists candidates for qboot.rom; the first that exists is used,
	// and QEMU's default firmware when none does. Default: where
	// distributions put it.
	Firmware []string
	// MachineType is q35, also when empty.
	MachineType string
	// MachineAccelerators are further -machine options, comma-separated
	// (upstream's key of that name).
	MachineAccelerators string
	// CPUFeatures are appended to the CPU model, comma-separated: "pmu=off".
	CPUFeatures string
	// Sandbox is the argument of -sandbox (upstream's key seccompsandbox): QEMU's
	// own seccomp filter. Empty means all that QEMU offers and this build takes;
	// "off" means none.
	Sandbox string
	// ExtraArgs are appended to the command line, for devices that a Spec does not
	// describe. No operator's: tests of the guest use it.
	ExtraArgs []string
	// TBSizeMiB bounds TCG's cache of translated code; 0 means 64. A boot up to
	// the first container translates about 50 MiB: with 16 the cache is thrown
	// away on the way, which costs 300 ms of 1500 and saves 38 MB.
	TBSizeMiB int
}

const (
	machineQ35      = "q35"
	defaultTBSize   = 64
	defaultFSQueue  = 1024
	defaultQEMUName = "qemu-system-x86_64"
)

func defaultFirmware() []string {
	return []string{"/usr/share/qemu/qboot.rom", "/usr/share/qboot/bios.bin", "/usr/share/qemu-kvm/qboot.rom"}
}

// withDefaults returns the configuration with empty fields filled in.
func (c Config) withDefaults() Config {
	if c.Path == "" {
		c.Path = defaultQEMUName
	}
	if c.Firmware == nil {
		c.Firmware = defaultFirmware()
	}
	if c.MachineType == "" {
		c.MachineType = machineQ35
	}
	if c.TBSizeMiB == 0 {
		c.TBSizeMiB = defaultTBSize
	}
	return c
}

// validate reports the first value that cannot work.
func (c Config) validate(spec *vmm.Spec) error {
	switch {
	case c.MachineType != machineQ35:
		return fmt.Errorf("machine type %q is not supported: use %s", c.MachineType, machineQ35)
	case spec.HotplugDevices > maxPorts:
		return fmt.Errorf("places for %d devices: at most %d", spec.HotplugDevices, maxPorts)
	case c.Sandbox != "" && c.Sandbox != sandboxOff && !strings.HasPrefix(c.Sandbox, "on"):
		return fmt.Errorf("sandbox %q: it starts with on, or is off", c.Sandbox)
	case c.TBSizeMiB < 0:
		return fmt.Errorf("translation cache of %d MiB", c.TBSizeMiB)
	}
	for _, param := range spec.KernelParams {
		if strings.ContainsAny(param, "\x00\n") {
			return fmt.Errorf("kernel parameter %q holds a line break", param)
		}
	}
	return nil
}
