package netdev

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
	"kata/guest/netlink"
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
	mac            []byte
	stats          []byte // struct rtnl_link_stats64
}

func (l *link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }
func (l *link) up() bool       { return l.flags&unix.IFF_UP != 0 }

// filterStats is RTEXT_FILTER_SKIP_STATS, which x/sys/unix does not have.
const filterStats = 1 << 3

// links returns the network devices in the order of their numbers.
func (s *session) links(stats bool) ([]link, error) {
	r := netlink.NewRequest(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg))
	if !stats {
		r.Uint32(unix.IFLA_EXT_MASK, filterStats)
	}
	messages, err := s.conn.Dump(r)
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	list := make([]link, 0, len(messages))
	for _, m := range messages {
		if m.Type != unix.RTM_NEWLINK {
			continue
		}
		l, err := parseLink(m)
		if err != nil {
			return nil, fmt.Errorf("list network devices: %w", err)
		}
		list = append(list, l)
	}
	return list, nil
}

func parseLink(m netlink.Message) (link, error) {
	var l link
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
			l.mac = attrs.Bytes()
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
func linkRequest(index int, flags, change uint32) *netlink.Request {
	// struct ifinfomsg
	b := make([]byte, 4, 64)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, change)
	return netlink.NewRequest(unix.RTM_NEWLINK, 0, b)
}

// setFlags sets those flags of a device that change has.
func (s *session) setFlags(index int, flags, change uint32) error {
	return s.conn.Do(linkRequest(index, flags, change))
}

// byIndex returns the device with a number, nil if there is none.
func byIndex(links []link, index int) *link {
	for i := range links {
		if links[i].index == index {
			return &links[i]
		}
	}
	return nil
}

// byName returns the device with a name, nil if there is none.
func byName(links []link, name string) *link {
	for i := range links {
		if links[i].name == name {
			return &links[i]
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

// MAC is a hardware address as text: "02:00:5e:10:00:01".
type MAC string

// ParseMAC parses a hardware address of 6, 8 or 20 bytes, in hexadecimal of
// either case with colons or hyphens between.
func ParseMAC(text string) (MAC, bool) {
	b := make([]byte, 0, 20)
	for i := 0; i < len(text); i += 3 {
		hi, ok := hexDigit(text[i])
		if !ok || i+1 >= len(text) {
			return "", false
		}
		lo, ok := hexDigit(text[i+1])
		if !ok || len(b) == cap(b) || i+2 < len(text) && text[i+2] != text[2] || i+3 == len(text) {
			return "", false
		}
		b = append(b, hi<<4|lo)
	}
	if len(text) > 2 && text[2] != ':' && text[2] != '-' || len(b) != 6 && len(b) != 8 && len(b) != 20 {
		return "", false
	}
	return macOf(b), true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

const hexDigits = "0123456789abcdef"

func macOf(b []byte) MAC {
	text := make([]byte, 0, 3*len(b))
	for i, c := range b {
		if i > 0 {
			text = append(text, ':')
		}
		text = append(text, hexDigits[c>>4], hexDigits[c&0xf])
	}
	return MAC(text)
}

// bytes returns the address's bytes.
func (m MAC) bytes() []byte {
	b := make([]byte, 0, 20)
	for i := 0; i+1 < len(m); i += 3 {
		hi, _ := hexDigit(m[i])
		lo, _ := hexDigit(m[i+1])
		b = append(b, hi<<4|lo)
	}
	return b
}
