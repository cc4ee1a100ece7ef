package netdev

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Addr is an IP address of either family, and can be compared. The zero value is
// none. (net/netip would do, and be a tenth of a megabyte.)
type Addr struct {
	bytes [16]byte
	bits  uint8 // 32, 128, or 0 for none
}

// AddrOf returns the address whose 4 or 16 bytes are b.
func AddrOf(b []byte) (Addr, bool) {
	var a Addr
	if len(b) != 4 && len(b) != 16 {
		return a, false
	}
	a.bits = uint8(len(b) * 8)
	copy(a.bytes[:], b)
	return a, true
}

// ParseAddr parses an address, "192.0.2.1" or "2001:db8::1". There is no zone,
// and no IPv4 address in IPv6 clothes (::ffff:192.0.2.1).
func ParseAddr(text string) (Addr, bool) {
	var a Addr
	if strings.IndexByte(text, ':') < 0 {
		a.bits = 32
		return a, parse4(text, a.bytes[:4])
	}
	a.bits = 128
	if !parse6(text, &a.bytes) || a.mapped() {
		return Addr{}, false
	}
	return a, true
}

func parse4(text string, to []byte) bool {
	for i := range 4 {
		part, rest, more := strings.Cut(text, ".")
		if more != (i < 3) || len(part) == 0 || len(part) > 3 || len(part) > 1 && part[0] == '0' {
			return false
		}
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return false
		}
		to[i], text = byte(n), rest
	}
	return true
}

// parse6 parses RFC 4291, 2.2.
func parse6(text string, to *[16]byte) bool {
	front, back, gap := strings.Cut(text, "::")
	n, ok := parseGroups(front, to[:], !gap)
	if !gap {
		return ok && n == 16
	}
	var tail [16]byte
	m, ok2 := parseGroups(back, tail[:], true)
	// The gap stands for one group at least.
	if !ok || !ok2 || n+m > 14 {
		return false
	}
	copy(to[16-m:], tail[:m])
	return true
}

// parseGroups parses groups with colons between and returns the bytes they fill;
// the last may be an IPv4 address where the whole address ends.
func parseGroups(text string, to []byte, end bool) (n int, ok bool) {
	for more := text != ""; more; {
		var group string
		group, text, more = strings.Cut(text, ":")
		if end && !more && strings.IndexByte(group, '.') >= 0 {
			return n + 4, n <= 12 && parse4(group, to[n:n+4])
		}
		if len(group) == 0 || len(group) > 4 || n > 14 {
			return 0, false
		}
		v, err := strconv.ParseUint(group, 16, 16)
		if err != nil {
			return 0, false
		}
		to[n], to[n+1] = byte(v>>8), byte(v)
		n += 2
	}
	return n, true
}

// mapped reports whether a is an IPv4 address mapped into IPv6.
func (a Addr) mapped() bool {
	return a.bytes[10] == 0xff && a.bytes[11] == 0xff && [10]byte(a.bytes[:10]) == [10]byte{}
}

// IsValid reports whether a is an address and not the zero value.
func (a Addr) IsValid() bool { return a.bits != 0 }

// Is6 reports whether a is an IPv6 address.
func (a Addr) Is6() bool { return a.bits == 128 }

// IsUnspecified reports whether a is 0.0.0.0 or ::.
func (a Addr) IsUnspecified() bool { return a.IsValid() && a.bytes == [16]byte{} }

// IsLoopback reports whether a is in 127.0.0.0/8 or ::1.
func (a Addr) IsLoopback() bool {
	if a.Is6() {
		return a.bytes == [16]byte{15: 1}
	}
	return a.bytes[0] == 127
}

// IsMulticast reports whether a is a multicast address or IPv4's broadcast one.
func (a Addr) IsMulticast() bool {
	if a.Is6() {
		return a.bytes[0] == 0xff
	}
	return a.bytes[0]&0xf0 == 0xe0 || [4]byte(a.bytes[:4]) == [4]byte{255, 255, 255, 255}
}

// isLinkLocal reports whether a is in fe80::/10.
func (a Addr) isLinkLocal() bool { return a.Is6() && a.bytes[0] == 0xfe && a.bytes[1]&0xc0 == 0x80 }

// Bytes returns the 4 or 16 bytes of a, none of no address.
func (a Addr) Bytes() []byte { return a.bytes[:a.bits/8] }

// family is AF_INET or AF_INET6.
func (a Addr) family() uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// String returns the address as RFC 5952 has it, or "" for none.
func (a Addr) String() string {
	b := make([]byte, 0, 39)
	switch a.bits {
	case 32:
		for i := range 4 {
			if i > 0 {
				b = append(b, '.')
			}
			b = strconv.AppendUint(b, uint64(a.bytes[i]), 10)
		}
	case 128:
		at, groups := a.zeros()
		for i := 0; i < 8; i++ {
			if i == at {
				b, i = append(b, "::"...), i+groups-1
				continue
			}
			if len(b) > 0 && b[len(b)-1] != ':' {
				b = append(b, ':')
			}
			b = strconv.AppendUint(b, uint64(a.bytes[2*i])<<8|uint64(a.bytes[2*i+1]), 16)
		}
	}
	return string(b)
}

// zeros returns the first of the longest runs of two groups or more that are
// zero, or -1.
func (a Addr) zeros() (at, groups int) {
	at, groups = -1, 1
	run := 0
	for i := range 8 {
		if a.bytes[2*i]|a.bytes[2*i+1] != 0 {
			run = 0
			continue
		}
		if run++; run > groups {
			at, groups = i-run+1, run
		}
	}
	return at, groups
}

// Prefix is an address with the length of its network's prefix, or a network. It
// can be compared.
type Prefix struct {
	Addr Addr
	Bits uint8
}

// ParseBits parses the length of a's prefix, in decimal.
func ParseBits(a Addr, text string) (Prefix, bool) {
	if len(text) > 1 && text[0] == '0' {
		return Prefix{}, false
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || n > uint64(a.bits) {
		return Prefix{}, false
	}
	return Prefix{a, uint8(n)}, true
}

// ParsePrefix parses ADDRESS/LENGTH; without a length it is the whole address.
func ParsePrefix(text string) (Prefix, bool) {
	address, length, ok := strings.Cut(text, "/")
	a, valid := ParseAddr(address)
	if !valid {
		return Prefix{}, false
	}
	if !ok {
		return Prefix{a, a.bits}, true
	}
	return ParseBits(a, length)
}

// Masked returns the network of p: its address with no bits behind the prefix.
func (p Prefix) Masked() Prefix {
	for i := range p.Addr.bytes {
		keep := min(max(int(p.Bits)-8*i, 0), 8)
		p.Addr.bytes[i] &^= 0xff >> keep
	}
	return p
}

// Default returns the network of all addresses of a family.
func Default(ipv6 bool) Prefix {
	if ipv6 {
		return Prefix{Addr: Addr{bits: 128}}
	}
	return Prefix{Addr: Addr{bits: 32}}
}

func (p Prefix) String() string {
	return p.Addr.String() + "/" + strconv.Itoa(int(p.Bits))
}
