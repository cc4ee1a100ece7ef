package netdev

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
	"kata/lib/fmt"
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
func (s *session) addresses(links []*link) ([]*address, error) {
	return list(s, "addresses", unix.RTM_GETADDR, families(unix.SizeofIfAddrmsg), func(m *netlink.Message) (*address, error) {
		return parseAddress(m, links)
	})
}

func parseAddress(m *netlink.Message, links []*link) (*address, error) {
	a := &address{raw: m.Body}
	attrs := m.Attributes(unix.SizeofIfAddrmsg)
	if attrs.Err() == nil {
		a.prefix.Bits = m.Body[1]
		a.index = int(int32(binary.NativeEndian.Uint32(m.Body[4:])))
	}
	proto := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.IFA_ADDRESS:
			if a.prefix.Addr == "" {
				a.prefix.Addr = AddrOf(attrs.Bytes())
			}
		case unix.IFA_LOCAL: // the other is the peer's
			a.prefix.Addr = AddrOf(attrs.Bytes())
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
func isEUI64(a Addr, mac MAC) bool {
	return len(mac) == 6 && a[8] == mac[0]^2 && a[9:11] == Addr(mac[1:3]) && a[11:13] == "\xff\xfe" && a[13:] == Addr(mac[3:])
}

// addAddress gives a device an address.
func (s *session) addAddress(index int, p Prefix) error {
	r := addressRequest(unix.RTM_NEWADDR, index, p, unix.RT_SCOPE_UNIVERSE)
	r.Octets(unix.IFA_LOCAL, string(p.Addr))
	r.Octets(unix.IFA_ADDRESS, string(p.Addr))
	if !p.Addr.Is6() && p.Bits <= 30 {
		_, broadcast := p.ends()
		r.Octets(unix.IFA_BROADCAST, string(broadcast))
	}
	return s.doAddress("add", r, p)
}

// doAddress sends a request about an address.
func (s *session) doAddress(what string, r *netlink.Request, p Prefix) error {
	if err := s.conn.Do(r); err != nil {
		return fmt.Errorf("%s address %s: %w", what, p.String(), err)
	}
	return nil
}

// restoreAddress adds an address as it was listed; one that is there is no
// error.
func (s *session) restoreAddress(a *address) error {
	r := addressRequest(unix.RTM_NEWADDR, a.index, a.prefix, a.raw[3])
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
	if err := s.doAddress("add", r, a.prefix); !isErrno(err, unix.EEXIST) {
		return err
	}
	return nil
}

// deleteAddress deletes an address that was listed; one that has gone is no
// error.
func (s *session) deleteAddress(a *address) error {
	r := addressRequest(unix.RTM_DELADDR, a.index, a.prefix, 0)
	for attrs := netlink.ParseAttributes(a.raw[unix.SizeofIfAddrmsg:]); attrs.Next(); {
		if kind := attrs.Type(); kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS {
			r.Bytes(kind, attrs.Bytes())
		}
	}
	if err := s.doAddress("delete", r, a.prefix); !isErrno(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return nil
}

// addressRequest returns a request about an address. An IPv6 address is used at
// once, without a search for duplicates: the host's network has had that, and a
// route or server that needs the address would have to wait for a second.
func addressRequest(kind uint16, index int, p Prefix, scope uint8) *netlink.Request {
	// struct ifaddrmsg
	b := append(make([]byte, 0, 64), p.Addr.family(), p.Bits, 0, scope)
	if p.Addr.Is6() {
		b[2] = unix.IFA_F_NODAD
	}
	var flags uint16
	if kind == unix.RTM_NEWADDR {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	return netlink.NewRequest(kind, flags, binary.NativeEndian.AppendUint32(b, uint32(index)))
}
