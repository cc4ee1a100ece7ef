// Package netdev sets up the network of the guest: the names, addresses and MTU
// of its devices, the routes, the neighbours.
//
// What is asked for is a state, not a step: [Network.SetInterface] and
// [Network.SetRoutes] look at what is there and change what differs, so that the
// same call again changes nothing, and nothing is interrupted that stays. When
// a change fails in the middle, what had been changed before is put back, and
// the error says which part failed. What makes no sense is a fault of the
// found before anything is changed.
//
// The loopback device is set up at boot ([Up]) and never touched afterwards. What
// the kernel makes by itself, connected routes and link-local addresses, stays
// the kernel's.
//
// The package knows nothing of network namespaces: it acts on the one of the
// calling thread.
package netdev

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/guest/network/netlink"
	"kata/lib/fmt"
)

// Network is the network of this machine. Its methods may be called
// concurrently; changes are made one after the other.
type Network struct {
	changing chan struct{} // has room while no change is made
}

// New returns the network.
func New() *Network { return &Network{changing: make(chan struct{}, 1)} }

// ErrNotFound is a device that is not there.
var ErrNotFound = fault.New(fault.NotFound, "no such network device")

// invalid returns the error for a field of the request that makes no sense.
//
//go:noinline
func invalid(field, value, reason string) error {
	return fault.Field(field, fault.Quote(value), reason)
}

// nth is a field of an element of the list.
func nth(i int, field string) string { return "[" + strconv.Itoa(i) + "]." + field }

// kindOf returns what sort of failure the kernel reports, "" for its own.
func kindOf(err error) fault.Kind {
	e := (*netlink.Error)(nil)
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Errno {
	case unix.EINVAL, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL, unix.ERANGE:
		return fault.Invalid
	case unix.ENETDOWN:
		return fault.State
	case unix.EEXIST:
		return fault.Exists
	case unix.ENODEV:
		return fault.NotFound
	}
	return ""
}

// Up sets the device called name up, as in ip link set NAME up.
func Up(name string) error {
	err := New().look(func(s *session) error {
		r := linkRequest(unix.RTM_NEWLINK, 0, unix.IFF_UP, unix.IFF_UP)
		r.String(unix.IFLA_IFNAME, name)
		return s.conn.Do(r)
	})
	if err != nil {
		return fmt.Errorf("set network device %q up: %w", name, err)
	}
	return nil
}

// DeleteVirtual deletes the devices that stand for no hardware, such as dummy0,
// as in ip link delete; the loopback device stays. What cannot be deleted stays
// as well: the kernel takes a tunnel's fallback device (tunl0) back only with
// its module.
func DeleteVirtual() error {
	return New().look(func(s *session) error {
		links, err := s.links()
		for _, l := range links {
			if l.kind == "" {
				continue // virtio's and the loopback device
			}
			e := s.conn.Do(linkRequest(unix.RTM_DELLINK, l.index, 0, 0))
			if e != nil && !isErrno(e, unix.EOPNOTSUPP) && !isErrno(e, unix.ENODEV) {
				err = join(err, fmt.Errorf("delete network device %q: %w", l.name, e))
			}
		}
		return err
	})
}
