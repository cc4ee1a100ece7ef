package boot

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"kata/guest/agent/log"
	"kata/guest/network/netdev"
	"kata/lib/fmt"
)

// CgroupRoot is where the cgroup v2 hierarchy is mounted.
const CgroupRoot = "/sys/fs/cgroup"

// point is a file system of the guest and where it is mounted.
type point struct {
	fstype, target string
	flags          uintptr
	data           string
}

// Flags of every one of them: nothing there is a program with privileges.
const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// points returns the guest's mounts after /proc in the order in which they are
// made.
func points() []point {
	return []point{
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", safe, "mode=1777"},
		{"mqueue", "/dev/mqueue", safe, ""},
		{"sysfs", "/sys", safe, ""},
		{"cgroup2", CgroupRoot, safe, "nsdelegate"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
}

// Root makes the initramfs a mount with another one below it. The kernel's first
// mount has no parent, and pivot_root(2) refuses such a root; it also cannot be
// unmounted or moved, but it can be covered by a bind mount of itself.
//
// The calling process, and all that it starts, is in the new root afterwards.
// It is the first thing to do: what has been mounted before is hidden by it.
func Root() error {
	const staging = "/.root"
	if err := mkdir(staging); err != nil {
		return err
	}
	if err := unix.Mount("/", staging, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind / on %s: %w", staging, err)
	}
	if err := unix.Chdir(staging); err != nil {
		return fmt.Errorf("change to %s: %w", staging, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s onto /: %w", staging, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	_ = unix.Rmdir(staging) // an empty directory does no harm
	return nil
}

// MountProc mounts /proc, which even the kernel parameters need.
func MountProc() error { return point{"proc", "/proc", safe, ""}.mount() }

// Mount mounts the guest's other file systems.
func Mount() error {
	for _, p := range points() {
		if err := p.mount(); err != nil {
			return err
		}
	}
	return nil
}

func (p point) mount() error {
	if err := mkdir(p.target); err != nil {
		return err
	}
	if err := unix.Mount(p.fstype, p.target, p.fstype, p.flags, p.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", p.fstype, p.target, err)
	}
	return nil
}

func mkdir(path string) error {
	if err := unix.Mkdir(path, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// delegateControllers lets groups below root have every controller there is. A
// controller that cannot be had is worth a warning: its limits will be refused
// when somebody asks for them.
func delegateControllers(root string, log *log.Logger) error {
	list, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return err
	}
	names := strings.Fields(string(list))
	if len(names) == 0 {
		return nil
	}
	const control = "/cgroup.subtree_control"
	if write(root+control, "+"+strings.Join(names, " +")) == nil {
		return nil
	}
	for _, name := range names {
		if err := write(root+control, "+"+name); err != nil {
			log.Warn("cgroup controller not delegated", "controller", name, "error", err)
		}
	}
	return nil
}

// Finish does what only containers need: cgroup controllers, which take the
// kernel milliseconds, the network, limits, settings. A setting that fails is
// logged and skipped.
func Finish(log *log.Logger) error {
	var network sync.WaitGroup
	network.Go(func() { prepareNetwork(log) }) // the kernel waits in both, for different things
	defer network.Wait()
	if err := delegateControllers(CgroupRoot, log); err != nil {
		return err
	}
	for _, setting := range []struct{ path, value string }{
		// Memory that is plugged in can be unplugged again, up to three times
		// what the kernel may keep for itself (the kernel's documentation has it
		// in admin-guide/mm/memory-hotplug.rst).
		{"/sys/module/memory_hotplug/parameters/online_policy", "auto-movable"},
		// Init is never chosen by the OOM killer, but its own helpers are, until
		// they become a container's process and reset this.
		{"/proc/self/oom_score_adj", "-1000"},
	} {
		if err := write(setting.path, setting.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Warn("kernel setting not made", "path", setting.path, "value", setting.value, "error", err)
		}
	}
	raiseLimits(log)
	return nil
}

// prepareNetwork leaves the loopback device alone, up. What else there is without
// hardware nobody has asked for: the kernel makes it of drivers that are built
// in, unless its command line says otherwise (dummy.numdummies, fb_tunnels; see
// host/vmm/qemu).
func prepareNetwork(log *log.Logger) {
	if err := netdev.Up("lo"); err != nil {
		log.Warn("loopback device not available", "error", err)
	}
	// 2: none in any namespace (Documentation/admin-guide/sysctl/net.rst). It is
	// for namespaces that are still to be made, and for modules.
	const tunnels = "/proc/sys/net/core/fb_tunnels_only_for_init_net"
	if err := write(tunnels, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("tunnels will have fallback devices", "error", err)
	}
	if err := netdev.DeleteVirtual(); err != nil {
		log.Warn("network devices of the kernel's stay", "error", err)
	}
}

// ReadonlyRoot makes the file system that is / read-only, and with it the
// initramfs below: what a container may do to the mount does not make it
// writable again. File systems mounted in it stay as they are.
func ReadonlyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make / read-only: %w", err)
	}
	return nil
}

// write writes value to a file of the kernel, which must exist.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
