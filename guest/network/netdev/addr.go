package netdev

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Addr is an IP address: its 4 or 16 bytes. The zero value is none. (net/netip
// would do, and be a tenth of a megabyte.)
type Addr string

// AddrOf returns the address whose bytes are b, none of any other number than 4
// or 16.
//
//go:noinline
func AddrOf(b []byte) Addr {
	if len(b) != 4 && len(b) != 16 {
		return ""
	}
	return Addr(b)
}

// ParseAddr parses an address, "192.0.2.1" or "2001:db8::1", and returns none if
// that is not possible. There is no zone, and no IPv4 address in IPv6 clothes
// (::ffff:192.0.2.1).
func ParseAddr(text string) Addr {
	var b [16]byte
	if strings.IndexByte(text, ':') < 0 {
		if !parse4(text, b[:4]) {
			return ""
		}
		return Addr(b[:4])
	}
	a := Addr("")
	if parse6(text, &b) {
		a = Addr(b[:])
	}
	if strings.HasPrefix(string(a), mapped) {
		return ""
	}
	return a
}

// mapped is what IPv4 addresses in IPv6 begin with.
const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"

func parse4(text string, to []byte) bool {
	for i := range 4 {
		part, rest, more := strings.Cut(text, ".")
		if more != (i < 3) || len(part) > 1 && part[0] == '0' {
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
		if len(group) > 4 || n > 14 {
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

// Is6 reports whether a is an IPv6 address.
func (a Addr) Is6() bool { return len(a) == 16 }

// bits is the number of bits of the address.
func (a Addr) bits() uint8 { return uint8(len(a) * 8) }

// IsUnspecified reports whether a is 0.0.0.0 or ::.
func (a Addr) IsUnspecified() bool { return a != "" && strings.Trim(string(a), "\x00") == "" }

// IsLoopback reports whether a is in 127.0.0.0/8 or ::1.
func (a Addr) IsLoopback() bool {
	if a.Is6() {
		return strings.TrimLeft(string(a), "\x00") == "\x01"
	}
	return a != "" && a[0] == 127
}

// IsMulticast reports whether a is a multicast address or IPv4's broadcast one.
func (a Addr) IsMulticast() bool {
	if a.Is6() {
		return a[0] == 0xff
	}
	return a != "" && (a[0]&0xf0 == 0xe0 || a == "\xff\xff\xff\xff")
}

// isLinkLocal reports whether a is in fe80::/10.
func (a Addr) isLinkLocal() bool { return a.Is6() && a[0] == 0xfe && a[1]&0xc0 == 0x80 }

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
	if !a.Is6() {
		for i := range len(a) {
			if i > 0 {
				b = append(b, '.')
			}
			b = strconv.AppendUint(b, uint64(a[i]), 10)
		}
		return string(b)
	}
	at, groups := a.zeros()
	for i := 0; i < 8; i++ {
		if i == at {
			b, i = append(b, ':', ':'), i+groups-1
			continue
		}
		if len(b) > 0 && b[len(b)-1] != ':' {
			b = append(b, ':')
		}
		b = strconv.AppendUint(b, uint64(a[2*i])<<8|uint64(a[2*i+1]), 16)
	}
	return string(b)
}

// zeros returns the first of the longest runs of two groups or more that are
// zero, or -1.
func (a Addr) zeros() (at, groups int) {
	at, groups = -1, 1
	run := 0
	for i := range 8 {
		if a[2*i]|a[2*i+1] != 0 {
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
// can be compared. The zero value is none.
type Prefix struct {
	Addr Addr
	Bits uint8
}

// ParseBits returns a with the length of its prefix, parsed as a decimal number,
// and none if that is not possible.
func ParseBits(a Addr, text string) Prefix {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || n > uint64(a.bits()) || len(text) > 1 && text[0] == '0' {
		return Prefix{}
	}
	return Prefix{a, uint8(n)}
}

// ParsePrefix parses ADDRESS/LENGTH, and returns none if that is not possible;
// without a length it is the whole address.
func ParsePrefix(text string) Prefix {
	address, length, ok := strings.Cut(text, "/")
	a := ParseAddr(address)
	if !ok {
		return Prefix{a, a.bits()}
	}
	return ParseBits(a, length)
}

// ends returns the first and the last address of p.
//
//go:noinline
func (p Prefix) ends() (first, last Addr) {
	low, high := []byte(p.Addr), []byte(p.Addr)
	for i := range low {
		host := byte(0xff >> min(max(int(p.Bits)-8*i, 0), 8))
		low[i] &^= host
		high[i] |= host
	}
	return Addr(low), Addr(high)
}

// Masked returns the network of p: its address with no bits behind the prefix.
func (p Prefix) Masked() Prefix {
	p.Addr, _ = p.ends()
	return p
}

// Default returns the network of all addresses of a family.
func Default(ipv6 bool) Prefix {
	zero := Addr(make([]byte, 16))
	if !ipv6 {
		zero = zero[:4]
	}
	return Prefix{Addr: zero}
}

func (p Prefix) String() string {
	return p.Addr.String() + "/" + strconv.Itoa(int(p.Bits))
}
