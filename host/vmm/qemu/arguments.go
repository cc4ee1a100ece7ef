package qemu

import (
	"fmt"
	"os"
	"strings"

	"kata/host/vmm"
)

// command is everything that decides QEMU's command line, and what comes of it
// besides: the descriptors that QEMU is started with and the places of devices.
type command struct {
	spec vmm.Spec
	cfg  Config // with defaults
	host hostFacts

	fds   descriptors
	slots *slots
}

// arguments returns QEMU's arguments, without the program's name and -sandbox.
// It depends on nothing but its receiver, whose fds and slots it fills in.
func (c *command) arguments() []string {
	c.fds, c.slots = nil, newSlots()
	args := []string{
		"-name", "sandbox-" + escape(c.spec.ID) + ",debug-threads=on",
		"-nodefaults", "-no-user-config", "-display", "none",
		// A guest that reboots, which is how it ends a panic, ends QEMU.
		"-no-reboot",
		"-machine", c.machine(),
		"-accel", c.accel(),
		"-cpu", c.cpu(),
		"-smp", c.smp(),
	}
	args = append(args, c.memory()...)
	if c.spec.Accel == vmm.AccelKVM {
		args = append(args, "-global", "kvm-pit.lost_tick_policy=discard")
	}
	if c.host.firmware != "" {
		args = append(args, "-bios", c.fds.path(c.host.firmware))
	}
	args = append(args, c.boot()...)
	if c.spec.Restore != "" {
		args = append(args, "-incoming", "defer")
	}
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", consoleFD), "-serial", "chardev:console",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng,"+c.slots.fix(""),
	)
	args = append(args, c.devices()...)
	return append(args, c.cfg.ExtraArgs...)
}

// memory returns the guest's memory: shared, because vhost-user back-ends map it,
// unless it is a private copy of a snapshot's.
func (c *command) memory() []string {
	size := fmt.Sprintf("%dM", c.spec.MemoryMiB)
	most := size
	if hot := c.hotMemory(); hot > 0 {
		most += fmt.Sprintf(",maxmem=%dM", c.spec.MemoryMiB+hot)
	}
	backend := "memory-backend-memfd,id=memory,size=" + size + ",share=on"
	if file := c.spec.MemoryFile; file != nil {
		share := "on"
		if c.spec.MemoryPrivate {
			share = "off"
		}
		backend = fmt.Sprintf("memory-backend-file,id=memory,size=%s,share=%s,mem-path=/proc/self/fd/%d", size, share, c.fds.dup(file))
	}
	return []string{"-m", most, "-object", backend}
}

// hotMemory is the size of the virtio-mem device in MiB.
func (c *command) hotMemory() int {
	return roundUp(max(0, c.spec.MaxMemoryMiB-c.spec.MemoryMiB), hotAlignmentMiB)
}

func (c *command) machine() string {
	options := []string{
		c.cfg.MachineType, "memory-backend=memory", "dump-guest-core=off",
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
	args := []string{"-kernel", c.fds.path(c.spec.Kernel)}
	if c.spec.Initrd != "" {
		args = append(args, "-initrd", c.fds.path(c.spec.Initrd))
	}
	return append(args, "-append", c.kernelCommandLine())
}

func (c *command) devices() []string {
	var args []string
	if image := c.spec.Image; image != "" {
		fd := c.fds.add(func() (*os.File, error) { return os.Open(image) })
		args = append(args,
			"-add-fd", fmt.Sprintf("fd=%d,set=0", fd),
			"-blockdev", "driver=file,node-name=image-file,read-only=on,filename=/dev/fdset/0",
			"-blockdev", "driver=raw,node-name=image,read-only=on,file=image-file",
			"-device", "virtio-blk-pci,drive=image,"+c.slots.fix("image"))
	}
	if vsock := c.spec.Vsock; vsock != nil {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", c.fds.socket(vsock.Socket)),
			"-device", "vhost-user-vsock-pci,chardev=vsock,"+c.slots.fix(vmm.VsockID))
	}
	for i, share := range c.spec.Shares {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=fs%d,fd=%d", i, c.fds.socket(share.Socket)),
			"-device", fmt.Sprintf("vhost-user-fs-pci,chardev=fs%d,tag=%s,queue-size=%d,%s", i, escape(share.Tag), fsQueue(share), c.slots.fix(share.Tag)))
	}
	if hot := c.hotMemory(); hot > 0 {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-memfd,id=%s,size=%dM,share=on", hotBackend, hot),
			"-device", fmt.Sprintf("virtio-mem-pci,id=%s,memdev=%s,block-size=%dM,requested-size=0,%s", hotMemory, hotBackend, hotBlockMiB, c.slots.fix("")))
	}
	for _, port := range c.slots.addPorts(c.ports()) {
		args = append(args, "-device", port)
	}
	return args
}

// ports returns the number of root ports.
func (c *command) ports() int {
	if c.spec.HotplugDevices == 0 {
		return defaultPorts
	}
	return c.spec.HotplugDevices
}

func fsQueue(share vmm.Share) int {
	if share.QueueSize == 0 {
		return defaultFSQueue
	}
	return share.QueueSize
}

// escape protects a value inside a comma-separated option list.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
