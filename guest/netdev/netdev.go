// Package netdev configures network devices of the guest.
//
// At boot that is the loopback device; addresses, routes and neighbours of the
// pod's devices follow with the calls that set them. It knows nothing of
// network namespaces: it acts on the one of the calling process.
package netdev

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Up sets the device called name up, as in ip link set NAME up.
func Up(name string) error {
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("set network device %q up: %w", name, err)
	}
	// Any socket will do (netdevice(7)).
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set network device %s up: %w", name, os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifreq); err != nil {
		return fmt.Errorf("set network device %s up: %w", name, os.NewSyscallError("SIOCGIFFLAGS", err))
	}
	ifreq.SetUint16(ifreq.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq); err != nil {
		return fmt.Errorf("set network device %s up: %w", name, os.NewSyscallError("SIOCSIFFLAGS", err))
	}
	return nil
}
