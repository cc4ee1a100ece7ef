package netdev

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
	"kata/lib/fmt"
)

// link is a network device as the kernel describes it.
type link struct {
	index int
	name  string
	kind  string // veth, dummy, …; of virtio none
	flags uint32 // IFF_…
	mtu   uint32
	// minMTU and maxMTU bound mtu; 0 is no bound.
	minMTU, maxMTU uint32
	mac            MAC    // empty: it has none
	stats          []byte // struct rtnl_link_stats64
}

func (l *link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }
func (l *link) up() bool       { return l.flags&unix.IFF_UP != 0 }

// links returns the network devices in the order of their numbers.
func (s *session) links() ([]*link, error) {
	return list(s, "network devices", unix.RTM_GETLINK, [][]byte{make([]byte, unix.SizeofIfInfomsg)}, parseLink)
}

func parseLink(m *netlink.Message) (*link, error) {
	l := &link{}
	attrs := m.Attributes(unix.SizeofIfInfomsg)
	if attrs.Err() == nil {
		l.index = int(int32(binary.NativeEndian.Uint32(m.Body[4:])))
		l.flags = binary.NativeEndian.Uint32(m.Body[8:])
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.IFLA_IFNAME:
			l.name = attrs.String()
		case unix.IFLA_ADDRESS:
			l.mac = macOf(attrs.Bytes())
		case unix.IFLA_MTU:
			l.mtu = attrs.Uint32()
		case unix.IFLA_MIN_MTU:
			l.minMTU = attrs.Uint32()
		case unix.IFLA_MAX_MTU:
			l.maxMTU = attrs.Uint32()
		case unix.IFLA_STATS64:
			l.stats = attrs.Bytes()
		case unix.IFLA_LINKINFO:
			for info := attrs.Nested(); info.Next(); {
				if info.Type() == unix.IFLA_INFO_KIND {
					l.kind = info.String()
				}
			}
		}
	}
	return l, attrs.Err()
}

// linkRequest returns a request about a device: flags are set as far as change
// has them.
//
//go:noinline
func linkRequest(kind uint16, index int, flags, change uint32) *netlink.Request {
	// struct ifinfomsg
	b := make([]byte, 4, 64)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, change)
	return netlink.NewRequest(kind, 0, b)
}

// setFlags sets those flags of a device that change has.
func (s *session) setFlags(index int, flags, change uint32) error {
	if err := s.conn.Do(linkRequest(unix.RTM_NEWLINK, index, flags, change)); err != nil {
		return fmt.Errorf("set flags %#x of %#x: %w", flags, change, err)
	}
	return nil
}

// byIndex returns the device with a number, nil if there is none.
//
//go:noinline
func byIndex(links []*link, index int) *link {
	for _, l := range links {
		if l.index == index {
			return l
		}
	}
	return nil
}

// byName returns the device with a name, nil if there is none.
//
//go:noinline
func byName(links []*link, name string) *link {
	for _, l := range links {
		if l.name == name {
			return l
		}
	}
	return nil
}

// checkName finds out whether a device can be called name, by the kernel's rules
// (dev_valid_name) and those of its folders in /proc/sys/net. It returns what is
// wrong with it.
func checkName(name string) string {
	if len(name) >= unix.IFNAMSIZ {
		return "is longer than 15 bytes"
	}
	switch name {
	case ".", "..", "all", "default":
		return "is no name for a network device"
	case "lo":
		return "is the loopback device's name"
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || strings.IndexByte("/:%", c) >= 0 {
			return "has a character that a network device's name may not have"
		}
	}
	return ""
}

// MAC is a hardware address: its 6, 8 or 20 bytes. The zero value is none.
type MAC string

// macOf returns the hardware address whose bytes are b: none of any other
// number, since tunnels have the IP address of their end there.
//
//go:noinline
func macOf(b []byte) MAC {
	if n := len(b); n != 6 && n != 8 && n != 20 {
		return ""
	}
	return MAC(b)
}

// ParseMAC parses a hardware address in hexadecimal of either case, with colons
// or hyphens between the bytes, and returns none if that is not possible.
func ParseMAC(text string) MAC {
	b := make([]byte, 0, 20)
	for i := 0; i < len(text); i += 3 {
		end := min(i+2, len(text))
		v, err := strconv.ParseUint(text[i:end], 16, 8)
		if err != nil || end != i+2 || end+1 == len(text) || end < len(text) && text[end] != text[2] {
			return ""
		}
		b = append(b, byte(v))
	}
	if len(text) > 2 && text[2] != ':' && text[2] != '-' {
		return ""
	}
	return macOf(b)
}

// String returns the address as ip link does: "02:00:5e:10:00:01".
//
//go:noinline
func (m MAC) String() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 60)
	for i := range len(m) {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[m[i]>>4], digits[m[i]&0xf])
	}
	return string(b)
}
