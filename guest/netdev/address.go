package netdev

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
	"kata/guest/netlink"
)

// address is an IP address of a device as the kernel describes it.
type address struct {
	index  int
	prefix Prefix
	// own says that the kernel has given the device this address by itself.
	own bool
	raw []byte // the message
}

// Who has made an address: IFA_PROTO and its values, which x/sys/unix does not
// have (include/uapi/linux/if_addr.h, Linux 5.18).
const (
	ifaProto          = 11
	ifaProtoLinkLocal = 2
	ifaProtoRouter    = 3
)

// settableFlags are those flags of an address that are not the kernel's to say.
const settableFlags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MCAUTOJOIN

// addresses returns the addresses of all devices, of both families.
func (s *session) addresses(links []link) ([]address, error) {
	var list []address
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		fixed := make([]byte, unix.SizeofIfAddrmsg)
		fixed[0] = family
		messages, err := s.conn.Dump(netlink.NewRequest(unix.RTM_GETADDR, 0, fixed))
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, m := range messages {
			// Without IPv6 the kernel answers with what it has.
			if m.Type != unix.RTM_NEWADDR || len(m.Body) < 1 || m.Body[0] != family {
				continue
			}
			a, err := parseAddress(m, links)
			if err != nil {
				return nil, fmt.Errorf("list addresses: %w", err)
			}
			if a.prefix.Addr.IsValid() {
				list = append(list, a)
			}
		}
	}
	return list, nil
}

func parseAddress(m netlink.Message, links []link) (address, error) {
	a := address{raw: m.Body}
	attrs := m.Attributes(unix.SizeofIfAddrmsg)
	if attrs.Err() == nil {
		a.prefix.Bits = m.Body[1]
		a.index = int(int32(binary.NativeEndian.Uint32(m.Body[4:])))
	}
	proto := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.IFA_ADDRESS:
			if !a.prefix.Addr.IsValid() {
				a.prefix.Addr, _ = AddrOf(attrs.Bytes())
			}
		case unix.IFA_LOCAL: // the other is the peer's
			a.prefix.Addr, _ = AddrOf(attrs.Bytes())
		case ifaProto:
			proto = true
			if b := attrs.Bytes(); len(b) == 1 {
				a.own = b[0] == ifaProtoLinkLocal || b[0] == ifaProtoRouter
			}
		}
	}
	if l := byIndex(links, a.index); !proto && l != nil {
		a.own = a.prefix.Addr.isLinkLocal() && isEUI64(a.prefix.Addr, l.mac)
	}
	return a, attrs.Err()
}

// isEUI64 reports whether a ends as RFC 4291, appendix A, makes it of a MAC
// address.
func isEUI64(a Addr, mac []byte) bool {
	return len(mac) == 6 && [8]byte(a.bytes[8:]) == [8]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

// addAddress gives a device an address.
func (s *session) addAddress(index int, p Prefix) error {
	r := addressRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, p, unix.RT_SCOPE_UNIVERSE)
	r.Bytes(unix.IFA_LOCAL, p.Addr.Bytes())
	r.Bytes(unix.IFA_ADDRESS, p.Addr.Bytes())
	if !p.Addr.Is6() && p.Bits <= 30 {
		broadcast := p.Masked().Addr
		for i := range 4 {
			broadcast.bytes[i] |= 0xff >> min(max(int(p.Bits)-8*i, 0), 8)
		}
		r.Bytes(unix.IFA_BROADCAST, broadcast.Bytes())
	}
	if err := s.conn.Do(r); err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// restoreAddress adds an address as it was listed.
func (s *session) restoreAddress(a address) error {
	r := addressRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a.index, a.prefix, a.raw[3])
	for attrs := netlink.ParseAttributes(a.raw[unix.SizeofIfAddrmsg:]); attrs.Next(); {
		if attrs.Type() == unix.IFA_FLAGS {
			flags := attrs.Uint32() & settableFlags
			if a.prefix.Addr.Is6() {
				flags |= unix.IFA_F_NODAD
			}
			r.Uint32(unix.IFA_FLAGS, flags)
			continue
		}
		r.Bytes(attrs.Type(), attrs.Bytes())
	}
	if err := s.conn.Do(r); err != nil {
		return fmt.Errorf("add address %s: %w", a.prefix, err)
	}
	return nil
}

func (s *session) deleteAddress(a address) error {
	r := addressRequest(unix.RTM_DELADDR, 0, a.index, a.prefix, a.raw[3])
	for attrs := netlink.ParseAttributes(a.raw[unix.SizeofIfAddrmsg:]); attrs.Next(); {
		if kind := attrs.Type(); kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS {
			r.Bytes(kind, attrs.Bytes())
		}
	}
	if err := s.conn.Do(r); err != nil {
		return fmt.Errorf("delete address %s: %w", a.prefix, err)
	}
	return nil
}

// addressRequest returns a request about an address. An IPv6 address is used at
// once, without a search for duplicates: the host's network has had that, and a
// route or server that needs the address would have to wait for a second.
func addressRequest(kind, flags uint16, index int, p Prefix, scope uint8) *netlink.Request {
	// struct ifaddrmsg
	b := append(make([]byte, 0, 64), p.Addr.family(), p.Bits, 0, scope)
	if p.Addr.Is6() {
		b[2] = unix.IFA_F_NODAD
	}
	return netlink.NewRequest(kind, flags, binary.NativeEndian.AppendUint32(b, uint32(index)))
}
