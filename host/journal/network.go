package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Tap is a tap interface (Documentation/networking/tuntap.rst) that was made for
// the sandbox. Traffic control rules on it go with it.
type Tap struct {
	Name string `json:"name"`
	// Netns is the path of the network namespace; empty for the host's.
	Netns string `json:"netns,omitempty"`
}

func (Tap) kind() string { return "tap" }

func (t Tap) String() string {
	if t.Netns == "" {
		return "tap " + t.Name
	}
	return "tap " + t.Name + " in " + t.Netns
}

// release deletes the interface, if it is a tap. A namespace that is gone has
// taken it along.
func (t Tap) release(context.Context) error {
	if t.Netns == "" {
		return deleteTap(t.Name)
	}
	ns, err := os.Open(t.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	err = inNamespace(ns, unix.CLONE_NEWNET, func() error { return deleteTap(t.Name) })
	if errors.Is(err, unix.EINVAL) {
		return nil // the file is there, but the namespace is not mounted on it any more
	}
	return err
}

// deleteTap deletes a tap of the calling thread's network namespace.
func deleteTap(name string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface name %q: %w", name, err)
	}
	ask, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(ask)
	err = unix.IoctlIfreq(ask, unix.SIOCGIFINDEX, request)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	driver, err := unix.IoctlGetEthtoolDrvinfo(ask, name)
	if err != nil {
		return fmt.Errorf("find the driver of interface %s: %w", name, err)
	}
	if d := unix.ByteSliceToString(driver.Driver[:]); d != "tun" {
		return fmt.Errorf("interface %s is no tap: its driver is %s", name, d)
	}
	return deleteLink(fd, request.Uint32())
}

// deleteLink sends RTM_DELLINK (rtnetlink(7)) and reads the answer.
func deleteLink(fd int, index uint32) error {
	const size = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	b := make([]byte, 0, size)
	b = binary.NativeEndian.AppendUint32(b, size)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_DELLINK)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence number, port
	b = append(b, make([]byte, 4)...) // family, padding, type
	b = binary.NativeEndian.AppendUint32(b, index)
	b = append(b, make([]byte, 8)...) // flags, change
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("delete interface %d: %w", index, err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("delete interface %d: %w", index, err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("delete interface %d: the kernel's answer has %d bytes and is no error message", index, n)
	}
	code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))
	if code != 0 && unix.Errno(-code) != unix.ENODEV {
		return fmt.Errorf("delete interface %d: %w", index, unix.Errno(-code))
	}
	return nil
}
