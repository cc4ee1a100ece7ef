package qemu

import (
	"fmt"
	"strings"

	"kata/host/vmm"
)

// kernelCommandLine returns the guest kernel's parameters. The kernel takes
// the last of several values, so the specification's come last.
func (c *command) kernelCommandLine() string {
	params := []string{
		"console=ttyS0",
		"panic=-1", // reboot at once, which ends QEMU
		"no_timer_check",
		"noreplace-smp",
		"transparent_hugepage=madvise",
		// A pod's network has lo and what the pod is given.
		"dummy.numdummies=0",
		"fb_tunnels=none",
	}
	if c.spec.Debug {
		// Also what the kernel says before it has a console.
		params = append(params, "earlyprintk=ttyS0")
	} else {
		params = append(params, "quiet") // panics are still printed
	}
	if c.spec.Accel == vmm.AccelTCG {
		// The translator's TSC is the host's, but the guest cannot know that
		// and would calibrate and watch it.
		params = append(params, "tsc=reliable")
		if c.host.tscKHz > 0 {
			// Loops per jiffy of the TSC delay loop, for HZ=100; too many for
			// a kernel with a higher HZ, which makes its delays longer, not
			// shorter. On a busy host a calibration can come out nine times
			// too slow (seen), and then the guest's time runs away.
			params = append(params,
				fmt.Sprintf("lpj=%d", c.host.tscKHz*10),
				fmt.Sprintf("tsc_early_khz=%d", c.host.tscKHz))
		}
	}
	if c.hotMemory() > 0 {
		// Else the kernel puts its own data into memory that is to be given back.
		params = append(params, "memory_hotplug.online_policy=auto-movable")
	}
	if c.spec.Image != "" {
		root := "/dev/vda"
		if c.host.imagePartitioned {
			root = "/dev/vda1"
		}
		params = append(params, "root="+root, "ro")
	}
	return strings.Join(append(params, c.spec.KernelParams...), " ")
}
