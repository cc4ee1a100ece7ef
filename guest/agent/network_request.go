package agent

import (
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/typespb"
	"kata/guest/fault"
	"kata/guest/network/netdev"
	"kata/lib/fmt"
)

// maxEntries bounds the addresses, routes or neighbours of a request.
const maxEntries = 4096

func checkLength(field string, n int) error {
	if n > maxEntries {
		return fault.New(fault.Limit, fmt.Sprintf("%s has %d elements, more than %d", field, n, maxEntries))
	}
	return nil
}

// harmlessFlags are those interface flags that may be asked for: what is the
// case anyway, and IFF_NOARP, which is the only one that is set.
const harmlessFlags = unix.IFF_UP | unix.IFF_BROADCAST | unix.IFF_RUNNING | unix.IFF_MULTICAST | unix.IFF_LOWER_UP | unix.IFF_NOARP

func parseInterface(m *typespb.Interface) (which netdev.Which, want netdev.Settings, err error) {
	which.Name = m.Device
	if m.HwAddr != "" {
		if which.MAC = netdev.ParseMAC(m.HwAddr); which.MAC == "" {
			return which, want, invalid("interface.hwAddr", m.HwAddr, "is not a MAC address")
		}
	}
	if m.Mtu > 1<<31-1 {
		return which, want, invalid("interface.mtu", m.Mtu, "is more than any device can have")
	}
	if m.RawFlags&^harmlessFlags != 0 {
		return which, want, invalid("interface.raw_flags", m.RawFlags, "has other flags than IFF_NOARP (128)")
	}
	want = netdev.Settings{Name: m.Name, MTU: uint32(m.Mtu), NoARP: m.RawFlags&unix.IFF_NOARP != 0}
	if err := checkLength("interface.IPAddresses", len(m.IPAddresses)); err != nil {
		return which, want, err
	}
	for i, a := range m.IPAddresses {
		field := element("interface.IPAddresses", i)
		addr, err := parseAddress(field, a)
		if err != nil {
			return which, want, err
		}
		p := netdev.ParseBits(addr, a.Mask)
		switch {
		case a.Mask == "":
			return which, want, invalid(field+".mask", "", "is missing")
		case p.Addr == "" && addr.Is6():
			return which, want, invalid(field+".mask", a.Mask, "is not a prefix length of 0 to 128")
		case p.Addr == "":
			return which, want, invalid(field+".mask", a.Mask, "is not a prefix length of 0 to 32")
		}
		want.Addresses = append(want.Addresses, p)
	}
	return which, want, nil
}

// parseAddress returns the address of one host, or the error that names what is
// wrong with it in field.
func parseAddress(field string, m *typespb.IPAddress) (netdev.Addr, error) {
	addr, err := parseAddr(field+".address", m.GetAddress())
	if err != nil {
		return addr, err
	}
	return addr, checkFamily(field+".family", m.Family, addr)
}

// parseAddr parses the address of one host.
func parseAddr(field, text string) (netdev.Addr, error) {
	addr := netdev.ParseAddr(text)
	switch {
	case text == "":
		return addr, invalid(field, text, "is missing")
	case addr == "":
		return addr, invalid(field, text, "is not an IP address")
	case addr.IsUnspecified() || addr.IsMulticast():
		return addr, invalid(field, text, "is not the address of one host")
	}
	return addr, nil
}

// checkFamily finds out whether family can be said of an address. IPv4, being 0,
// may also mean that nothing is said; 10, being AF_INET6, is what upstream says
// for IPv6 in neighbours.
func checkFamily(field string, family typespb.IPFamily, addr netdev.Addr) error {
	switch family {
	case typespb.IPFamily_v4:
	case typespb.IPFamily_v6, unix.AF_INET6:
		if !addr.Is6() {
			return invalid(field, int32(family), "(v6) is not the family of "+addr.String())
		}
	default:
		return invalid(field, int32(family), "is neither v4 (0) nor v6 (1)")
	}
	return nil
}

func parseRoutes(messages []*typespb.Route) ([]netdev.Route, error) {
	if err := checkLength("routes.Routes", len(messages)); err != nil {
		return nil, err
	}
	list := make([]netdev.Route, len(messages))
	for i, m := range messages {
		if err := parseRoute(element("routes.Routes", i), m, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parseRoute fills r from the message called field.
func parseRoute(field string, m *typespb.Route, r *netdev.Route) (err error) {
	if m.GetDevice() == "" {
		return invalid(field+".device", "", "is missing")
	}
	*r = netdev.Route{Device: m.Device, Scope: uint8(m.Scope), Metric: m.GetMetric(), MTU: m.Mtu, Onlink: m.Flags&unix.RTNH_F_ONLINK != 0}
	if m.Gateway != "" {
		if r.Gateway, err = parseAddr(field+".gateway", m.Gateway); err != nil {
			return err
		}
	}
	if m.Source != "" {
		// Upstream has it with and without the length of a prefix.
		p := netdev.ParsePrefix(m.Source)
		if p.Addr == "" || p.Addr.IsUnspecified() || p.Addr.IsMulticast() {
			return invalid(field+".source", m.Source, "is not the address of one host")
		}
		r.Source = p.Addr
	}
	if err := parseDestination(field, m, r); err != nil {
		return err
	}
	if err := checkFamily(field+".family", m.Family, r.Dst.Addr); err != nil {
		return err
	}
	return checkRoute(field, m, r)
}

// parseDestination finds the destination out. All addresses of a family are
// "", "default" or, as upstream lists them, the address 0.0.0.0 without a
// prefix.
func parseDestination(field string, m *typespb.Route, r *netdev.Route) error {
	switch m.Dest {
	case "", "default":
		six := m.Family == typespb.IPFamily_v6 || m.Family == unix.AF_INET6
		r.Dst = netdev.Default(six || r.Gateway.Is6() || r.Source.Is6())
		return nil
	}
	p := netdev.ParsePrefix(m.Dest)
	switch {
	case p.Addr == "":
		return invalid(field+".dest", m.Dest, "is not a network, ADDRESS/LENGTH")
	case p.Addr.IsUnspecified() && strings.IndexByte(m.Dest, '/') < 0:
		p = netdev.Default(p.Addr.Is6())
	case p.Masked() != p:
		return invalid(field+".dest", m.Dest, "is an address within the network "+p.Masked().String())
	}
	r.Dst = p
	return nil
}

// knownFlags are all flags of routes, of which only RTNH_F_ONLINK can be asked
// for. The others tell a state, and are sent with a route as it was found.
const knownFlags = 0x7f | 0x2000ff00

const (
	minMTU4 = 68 // RFC 791
	minMTU6 = 1280
	maxMTU  = 65520 // what the kernel makes of larger ones
)

// checkRoute finds out whether the parts of a route fit together.
func checkRoute(field string, m *typespb.Route, r *netdev.Route) error {
	six := r.Dst.Addr.Is6()
	least := uint32(minMTU4)
	if six {
		least = minMTU6
	}
	switch {
	case r.Gateway != "" && r.Gateway.Is6() != six:
		return invalid(field+".gateway", m.Gateway, "is not of the family of the destination "+r.Dst.String())
	case r.Source != "" && r.Source.Is6() != six:
		return invalid(field+".source", m.Source, "is not of the family of the destination "+r.Dst.String())
	case m.Scope >= unix.RT_SCOPE_NOWHERE:
		return invalid(field+".scope", m.Scope, "is not a scope of 0 to 254")
	case !six && r.Gateway != "" && r.Scope >= unix.RT_SCOPE_LINK:
		return invalid(field+".scope", m.Scope, "is not possible with a gateway")
	case m.Flags&^knownFlags != 0:
		return invalid(field+".flags", m.Flags, "has unknown flags")
	case r.Onlink && r.Gateway == "":
		return invalid(field+".flags", m.Flags, "says onlink (4) of no gateway")
	case r.MTU != 0 && (r.MTU < least || r.MTU > maxMTU):
		return invalid(field+".mtu", r.MTU, fmt.Sprintf("is not within %d to %d", least, maxMTU))
	}
	return nil
}

func parseNeighbours(messages []*typespb.ARPNeighbor) ([]netdev.Neighbour, error) {
	if err := checkLength("neighbors.ARPNeighbors", len(messages)); err != nil {
		return nil, err
	}
	list := make([]netdev.Neighbour, len(messages))
	for i, m := range messages {
		if err := parseNeighbour(element("neighbors.ARPNeighbors", i), m, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parseNeighbour fills n from the message called field.
func parseNeighbour(field string, m *typespb.ARPNeighbor, n *netdev.Neighbour) (err error) {
	if m.GetToIPAddress() == nil {
		return invalid(field+".toIPAddress", "", "is missing")
	}
	if n.Addr, err = parseAddress(field+".toIPAddress", m.ToIPAddress); err != nil {
		return err
	}
	switch {
	case n.Addr.IsLoopback():
		return invalid(field+".toIPAddress.address", m.ToIPAddress.Address, "is a loopback address")
	case m.Device == "":
		return invalid(field+".device", "", "is missing")
	case m.State < 0 || m.State > unix.NUD_PERMANENT || m.State&(m.State-1) != 0:
		return invalid(field+".state", m.State, "is not one of the NUD values 1 to 128, nor 0 for permanent")
	case m.Flags < 0 || m.Flags > 0xff:
		return invalid(field+".flags", m.Flags, "has other flags than NTF ones, 1 to 128")
	}
	n.Device, n.State, n.Flags = m.Device, uint16(m.State), uint8(m.Flags)
	if n.Flags&unix.NTF_PROXY != 0 {
		return nil // which is answered for with the device's own
	}
	if m.Lladdr == "" {
		return invalid(field+".lladdr", "", "is missing")
	}
	if n.MAC = netdev.ParseMAC(m.Lladdr); n.MAC == "" {
		return invalid(field+".lladdr", m.Lladdr, "is not a MAC address")
	}
	return nil
}
