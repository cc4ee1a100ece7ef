package netdev

import (
	"context"
	"encoding/binary"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/lib/fmt"
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
func (n *Network) Interfaces() (all []*Interface, err error) {
	err = n.look(func(s *session) error {
		links, addresses, err := s.devices()
		for _, l := range links {
			if l.mac != "" || l.up() {
				all = append(all, present(l, addresses))
			}
		}
		return err
	})
	return all, err
}

// devices returns the network devices and their addresses.
func (s *session) devices() ([]*link, []*address, error) {
	links, err := s.links()
	if err != nil {
		return nil, nil, err
	}
	addresses, err := s.addresses(links)
	return links, addresses, err
}

func present(l *link, addresses []*address) *Interface {
	i := &Interface{Name: l.name, Kind: l.kind, MAC: l.mac, MTU: l.mtu, NoARP: l.flags&unix.IFF_NOARP != 0}
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
		links, err := s.links()
		for _, l := range links {
			found = found || l.mac == mac
		}
		return err
	})
	return found, err
}

// SetInterface makes a device what want says, and sets it up. It returns the
// device as it is then. When that fails, the device is what it was, as far as
// that is possible.
func (n *Network) SetInterface(ctx context.Context, which Which, want Settings) (got *Interface, err error) {
	err = n.change(ctx, func(s *session) error {
		links, addresses, err := s.devices()
		if err != nil {
			return err
		}
		l, err := find(links, &which, want.Name)
		if err != nil {
			return err
		}
		if want.Name == "" {
			want.Name = l.name
		}
		if err := check(l, &want); err != nil {
			return err
		}
		if !asWanted(l, &want, addresses) {
			if l.loopback() {
				return invalid("hwAddr", l.mac.String(), "is the loopback device's, which stays as it is")
			}
			if err := s.set(links, l, &want); err != nil {
				return &fault.Error{Kind: kindOf(err), Cause: fmt.Errorf("set up network device %s: %w", l.name, err)}
			}
			if links, addresses, err = s.devices(); err != nil {
				return err
			}
			if l = byIndex(links, l.index); l == nil {
				return fmt.Errorf("%w: %s has gone while it was set up", ErrNotFound, want.Name)
			}
		}
		got = present(l, addresses)
		return nil
	})
	return got, err
}

// find returns the device that is meant. Of several with a MAC address it is the
// one that has the wanted name.
func find(links []*link, which *Which, name string) (*link, error) {
	wrong := func(reason string) error { return invalid("hwAddr", which.MAC.String(), reason) }
	if which.Index != 0 {
		l := byIndex(links, which.Index)
		if l == nil {
			return nil, fmt.Errorf("%w: number %d", ErrNotFound, which.Index)
		}
		if which.MAC != "" && l.mac != which.MAC {
			return nil, wrong("is not that of " + l.name + " at devicePath, which has " + l.mac.String())
		}
		return l, nil
	}
	if which.MAC == "" {
		if l := byName(links, which.Name); l != nil && l.mac == "" {
			return l, nil
		}
		return nil, wrong("is missing, and so is devicePath")
	}
	var found *link
	names := ""
	for _, l := range links {
		if l.mac != which.MAC {
			continue
		}
		if l.name == name {
			return l, nil
		}
		found, names = l, names+" "+l.name
	}
	if found == nil {
		return nil, fmt.Errorf("%w: hwAddr %q", ErrNotFound, which.MAC.String())
	}
	if found.name != names[1:] {
		return nil, wrong("is that of several network devices:" + names)
	}
	return found, nil
}

// minMTU6 is the smallest MTU that IPv6 works with (RFC 8200, 5).
const minMTU6 = 1280

// check finds out what of want makes no sense for the device.
func check(l *link, want *Settings) error {
	if want.Name != l.name {
		if reason := checkName(want.Name); reason != "" {
			return invalid("name", want.Name, reason)
		}
	}
	mtu := want.MTU
	if mtu == 0 {
		mtu = l.mtu
	}
	reason := ""
	if least, most := max(l.minMTU, 1), l.mostMTU(); mtu != l.mtu && (mtu < least || mtu > most) {
		reason = fmt.Sprintf("is not within what %s can have, %d to %d", l.name, least, most)
	}
	for i, p := range want.Addresses {
		bad := ""
		if p.Addr.IsLoopback() && !l.loopback() {
			bad = "is a loopback address"
		}
		if p.Addr.Is6() {
			if mtu < minMTU6 {
				reason = "is too small for IPv6 addresses, which need 1280"
			}
			for _, q := range want.Addresses[:i] {
				if q.Addr == p.Addr && q.Bits != p.Bits {
					bad = "is there with another mask too"
				}
			}
		}
		if bad != "" {
			return invalid("IPAddresses"+nth(i, "address"), p.Addr.String(), bad)
		}
	}
	if reason != "" {
		return invalid("mtu", strconv.FormatUint(uint64(mtu), 10), reason)
	}
	return nil
}

// mostMTU is the largest MTU that the device takes.
func (l *link) mostMTU() uint32 {
	if l.maxMTU == 0 {
		return 1<<31 - 1
	}
	return l.maxMTU
}

// asWanted reports whether the device is as wanted.
func asWanted(l *link, want *Settings, addresses []*address) bool {
	missing, extra := compare(l.index, want.Addresses, addresses)
	return l.name == want.Name && (want.MTU == 0 || want.MTU == l.mtu) && l.up() &&
		want.NoARP == (l.flags&unix.IFF_NOARP != 0) && len(missing) == 0 && len(extra) == 0
}

// compare returns the addresses that a device lacks and those it is not to have.
func compare(index int, want []Prefix, addresses []*address) (missing []Prefix, extra []*address) {
	var have []*address
	for _, a := range addresses {
		if a.index != index {
			continue
		}
		have = append(have, a)
		if !a.own && !hasPrefix(want, a.prefix) {
			extra = append(extra, a)
		}
	}
	for _, p := range want {
		if !hasAddress(have, p) && !hasPrefix(missing, p) {
			missing = append(missing, p)
		}
	}
	return missing, extra
}

// hasPrefix is slices.Contains, which would be inlined.
//
//go:noinline
func hasPrefix(list []Prefix, p Prefix) bool { return slices.Contains(list, p) }

// Statistics are the counters of a network device.
type Statistics struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Statistics returns the counters of all devices that are up, other than the
// loopback device.
func (n *Network) Statistics() (all []*Statistics, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links()
		for _, l := range links {
			// struct rtnl_link_stats64 begins with these.
			var v [8]uint64
			if !l.up() || l.loopback() || len(l.stats) < 8*len(v) {
				continue
			}
			for i := range v {
				v[i] = binary.NativeEndian.Uint64(l.stats[8*i:])
			}
			all = append(all, &Statistics{
				Name: l.name, RxPackets: v[0], TxPackets: v[1], RxBytes: v[2], TxBytes: v[3],
				RxErrors: v[4], TxErrors: v[5], RxDropped: v[6], TxDropped: v[7],
			})
		}
		return err
	})
	return all, err
}
