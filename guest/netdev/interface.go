package netdev

import (
	"context"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
)

// Interface is a network device as it is.
type Interface struct {
	Name string
	// Kind is netlink's word for what is no hardware: veth, dummy, …
	Kind      string
	MAC       MAC // empty: the device has none
	MTU       uint32
	NoARP     bool
	Addresses []Prefix
}

// Which says which device is meant: the one with Index, if that is not 0, or the
// only one with MAC. With both, the one with Index must have MAC. A device that
// has no MAC address can be told by Name alone.
type Which struct {
	Index int
	MAC   MAC
	Name  string
}

// Settings is how a device is to be.
type Settings struct {
	// Name is the device's new name; empty: it keeps its name. A device that
	// has the name already gets the old name of this one.
	Name string
	// MTU 0 leaves it as it is.
	MTU   uint32
	NoARP bool
	// Addresses replace those of the device, other than what the kernel gave it
	// by itself.
	Addresses []Prefix
}

// Interfaces returns the network devices: all but those without a hardware
// address that nobody has set up, such as the kernel's own ends of tunnels.
func (n *Network) Interfaces() (list []Interface, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links(false)
		if err != nil {
			return err
		}
		addresses, err := s.addresses(links)
		if err != nil {
			return err
		}
		for i := range links {
			if l := &links[i]; l.hasMAC() || l.up() {
				list = append(list, present(l, addresses))
			}
		}
		return nil
	})
	return list, err
}

// hasMAC reports whether the device has a hardware address by which it can be
// found: tunnels have their own end's IP address.
func (l *link) hasMAC() bool { return len(l.mac) == 6 || len(l.mac) == 8 || len(l.mac) == 20 }

func present(l *link, addresses []address) Interface {
	i := Interface{Name: l.name, Kind: l.kind, MTU: l.mtu, NoARP: l.flags&unix.IFF_NOARP != 0}
	if l.hasMAC() {
		i.MAC = macOf(l.mac)
	}
	for _, a := range addresses {
		if a.index == l.index {
			i.Addresses = append(i.Addresses, a.prefix)
		}
	}
	return i
}

// Exists reports whether there is a device with a MAC address.
func (n *Network) Exists(mac MAC) (found bool, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links(false)
		found = slices.ContainsFunc(links, func(l link) bool { return macOf(l.mac) == mac })
		return err
	})
	return found, err
}

// SetInterface makes a device what want says, and sets it up. It returns the
// device as it is then. When that fails, the device is what it was, as far as
// that is possible.
func (n *Network) SetInterface(ctx context.Context, which Which, want Settings) (got Interface, err error) {
	err = n.change(ctx, func(s *session) error {
		links, err := s.links(false)
		if err != nil {
			return err
		}
		addresses, err := s.addresses(links)
		if err != nil {
			return err
		}
		l, err := find(links, which, want.Name)
		if err != nil {
			return err
		}
		if want.Name == "" {
			want.Name = l.name
		}
		if err := check(l, want); err != nil {
			return err
		}
		if settled(l, want, addresses) {
			got = present(l, addresses)
			return nil
		}
		if l.loopback() {
			return &InvalidError{Field: "hwAddr", Value: string(macOf(l.mac)), Reason: "is the loopback device's, which stays as it is"}
		}
		if err := s.set(links, *l, want); err != nil {
			return fmt.Errorf("set up network device %s: %w", l.name, err)
		}
		if links, err = s.links(false); err != nil {
			return err
		}
		if addresses, err = s.addresses(links); err != nil {
			return err
		}
		if l = byIndex(links, l.index); l == nil {
			return fmt.Errorf("%w: %s has gone while it was set up", ErrNotFound, want.Name)
		}
		got = present(l, addresses)
		return nil
	})
	return got, err
}

// find returns the device that is meant. Of several with a MAC address it is the
// one that has the wanted name.
func find(links []link, which Which, name string) (*link, error) {
	if which.Index != 0 {
		l := byIndex(links, which.Index)
		if l == nil {
			return nil, fmt.Errorf("%w: number %d", ErrNotFound, which.Index)
		}
		if which.MAC != "" && macOf(l.mac) != which.MAC {
			reason := "is not that of " + l.name + " at devicePath, which has " + string(macOf(l.mac))
			return nil, &InvalidError{Field: "hwAddr", Value: string(which.MAC), Reason: reason}
		}
		return l, nil
	}
	if which.MAC == "" {
		if l := byName(links, which.Name); l != nil && !l.hasMAC() {
			return l, nil
		}
		return nil, &InvalidError{Field: "hwAddr", Reason: "is missing, and so is devicePath"}
	}
	var found *link
	var names []string
	for i := range links {
		l := &links[i]
		if macOf(l.mac) != which.MAC {
			continue
		}
		if l.name == name {
			return l, nil
		}
		found, names = l, append(names, l.name)
	}
	switch len(names) {
	case 0:
		return nil, fmt.Errorf("%w: hwAddr %q", ErrNotFound, which.MAC)
	case 1:
		return found, nil
	}
	reason := "is that of several network devices: " + strings.Join(names, ", ")
	return nil, &InvalidError{Field: "hwAddr", Value: string(which.MAC), Reason: reason}
}

// minMTU6 is the smallest MTU that IPv6 works with (RFC 8200, 5).
const minMTU6 = 1280

// check finds out what of want makes no sense for the device.
func check(l *link, want Settings) error {
	if want.Name != l.name {
		if reason := checkName(want.Name); reason != "" {
			return &InvalidError{Field: "name", Value: want.Name, Reason: reason}
		}
	}
	mtu := strconv.FormatUint(uint64(want.MTU), 10)
	if want.MTU != 0 && want.MTU != l.mtu {
		least, most := max(l.minMTU, 1), uint32(1<<31-1)
		if l.maxMTU != 0 {
			most = min(most, l.maxMTU)
		}
		if want.MTU < least || want.MTU > most {
			reason := fmt.Sprintf("is not within what %s can have, %d to %d", l.name, least, most)
			return &InvalidError{Field: "mtu", Value: mtu, Reason: reason}
		}
	}
	six := slices.ContainsFunc(want.Addresses, func(p Prefix) bool { return p.Addr.Is6() })
	if six && (want.MTU != 0 && want.MTU < minMTU6 || want.MTU == 0 && l.mtu < minMTU6) {
		return &InvalidError{Field: "mtu", Value: mtu, Reason: "is too small for IPv6 addresses, which need 1280"}
	}
	for i, p := range want.Addresses {
		switch {
		case p.Addr.IsLoopback() && !l.loopback():
			return &InvalidError{i, "address", p.Addr.String(), "is a loopback address"}
		case p.Addr.Is6() && slices.ContainsFunc(want.Addresses[:i], func(q Prefix) bool { return q.Addr == p.Addr && q != p }):
			return &InvalidError{i, "address", p.Addr.String(), "is there with another mask too"}
		}
	}
	return nil
}

// settled reports whether the device is as wanted.
func settled(l *link, want Settings, addresses []address) bool {
	missing, extra := compare(l.index, want.Addresses, addresses)
	return l.name == want.Name && (want.MTU == 0 || want.MTU == l.mtu) && l.up() &&
		want.NoARP == (l.flags&unix.IFF_NOARP != 0) && len(missing) == 0 && len(extra) == 0
}

// compare returns the addresses that a device lacks and those it is not to have.
func compare(index int, want []Prefix, addresses []address) (missing []Prefix, extra []address) {
	for i, p := range want {
		if !slices.Contains(want[:i], p) && !slices.ContainsFunc(addresses, func(a address) bool { return a.index == index && a.prefix == p }) {
			missing = append(missing, p)
		}
	}
	for _, a := range addresses {
		if a.index == index && !a.own && !slices.Contains(want, a.prefix) {
			extra = append(extra, a)
		}
	}
	return missing, extra
}

// Statistics are the counters of a network device.
type Statistics struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Statistics returns the counters of all devices that are up, other than the
// loopback device.
func (n *Network) Statistics() (list []Statistics, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links(true)
		for _, l := range links {
			if !l.up() || l.loopback() {
				continue
			}
			// struct rtnl_link_stats64 begins so.
			var v [8]uint64
			for i := range v {
				if len(l.stats) >= 8*i+8 {
					v[i] = binary.NativeEndian.Uint64(l.stats[8*i:])
				}
			}
			list = append(list, Statistics{
				Name: l.name, RxPackets: v[0], TxPackets: v[1], RxBytes: v[2], TxBytes: v[3],
				RxErrors: v[4], TxErrors: v[5], RxDropped: v[6], TxDropped: v[7],
			})
		}
		return err
	})
	return list, err
}
