package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"kata/host/vmm"
)

// Descriptors of the child: the first two of exec.Cmd's ExtraFiles.
const (
	qmpFD     = 3
	consoleFD = 4
)

// command is everything that decides QEMU's command line.
type command struct {
	spec vmm.Spec
	cfg  Config // with defaults
	host hostFacts
}

// arguments returns QEMU's arguments, without the program's name. It depends
// on nothing but its receiver.
func (c *command) arguments() []string {
	args := []string{
		"-name", "sandbox-" + escape(c.spec.ID) + ",debug-threads=on",
		"-nodefaults", "-no-user-config", "-display", "none",
		// A guest that reboots, which is how it ends a panic, ends QEMU.
		"-no-reboot",
		"-machine", c.machine(),
		"-accel", c.accel(),
		"-cpu", c.cpu(),
		"-smp", c.smp(),
		"-m", strconv.Itoa(c.spec.MemoryMiB) + "M",
		// Shared, for the vhost-user backends map it.
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", c.spec.MemoryMiB),
	}
	if c.spec.Accel == vmm.AccelKVM {
		args = append(args, "-global", "kvm-pit.lost_tick_policy=discard")
	}
	if c.host.firmware != "" {
		args = append(args, "-bios", c.host.firmware)
	}
	args = append(args, c.boot()...)
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", consoleFD), "-serial", "chardev:console",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng",
	)
	return append(args, c.devices()...)
}

func (c *command) machine() string {
	options := []string{
		c.cfg.MachineType, "memory-backend=memory",
		// What no guest of ours uses only costs its kernel time to probe.
		"sata=off", "smbus=off", "vmport=off", "usb=off",
	}
	if c.spec.Accel == vmm.AccelKVM {
		options = append(options, "kernel_irqchip=on")
	}
	if more := c.cfg.MachineAccelerators; more != "" {
		options = append(options, more)
	}
	return strings.Join(options, ",")
}

func (c *command) accel() string {
	if c.spec.Accel == vmm.AccelKVM {
		return "kvm"
	}
	accel := fmt.Sprintf("tcg,tb-size=%d", c.cfg.TBSizeMiB)
	if c.host.oneThread {
		accel += ",thread=single"
	}
	return accel
}

func (c *command) cpu() string {
	// Every feature the translator has, as images may ask for x86-64-v2, but not
	// those by which a kernel moves memory byte by byte (rep movsb): fast in
	// hardware, an interpreted loop here. Without them stdout carries 60 % more.
	model := "max,-erms,-fsrm"
	if c.spec.Accel == vmm.AccelKVM {
		model = "host"
	}
	if c.cfg.CPUFeatures != "" {
		model += "," + c.cfg.CPUFeatures
	}
	return model
}

func (c *command) smp() string {
	most := max(c.spec.MaxVCPUs, c.spec.VCPUs)
	return fmt.Sprintf("cpus=%d,maxcpus=%d,sockets=1,cores=%d,threads=1", c.spec.VCPUs, most, most)
}

func (c *command) boot() []string {
	args := []string{"-kernel", c.spec.Kernel}
	if c.spec.Initrd != "" {
		args = append(args, "-initrd", c.spec.Initrd)
	}
	return append(args, "-append", c.kernelCommandLine())
}

func (c *command) devices() []string {
	var args []string
	for i := range c.cfg.RootPorts {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=port%d,chassis=%d", i, i+1))
	}
	if image := c.spec.Image; image != "" {
		args = append(args,
			"-blockdev", "driver=file,node-name=image-file,read-only=on,filename="+escape(image),
			"-blockdev", "driver=raw,node-name=image,read-only=on,file=image-file",
			"-device", "virtio-blk-pci,drive=image")
	}
	if vsock := c.spec.Vsock; vsock != nil {
		args = append(args,
			"-chardev", "socket,id=vsock,path="+escape(vsock.Socket),
			"-device", "vhost-user-vsock-pci,chardev=vsock")
	}
	for i, share := range c.spec.Shares {
		size := share.QueueSize
		if size == 0 {
			size = defaultFSQueue
		}
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=fs%d,path=%s", i, escape(share.Socket)),
			"-device", fmt.Sprintf("vhost-user-fs-pci,chardev=fs%d,tag=%s,queue-size=%d", i, escape(share.Tag), size))
	}
	return args
}

// escape protects a value inside a comma-separated option list.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
