package iptables

import (
	"math/bits"
	"strconv"
	"strings"
)

// parseAddress writes an address of the family to the start of out. Of an IPv4
// address the last parts may be left out, as in 10.
func parseAddress(f Family, out []byte, s string) bool {
	if f == IPv6 {
		return parseIPv6(out, s)
	}
	clear(out[:4])
	for i, more := 0, true; more; i++ {
		var part string
		part, s, more = cut(s, ".")
		v, ok := parseNumber(part, 255)
		if !ok || i == 4 {
			return false
		}
		out[i] = byte(v)
	}
	return true
}

// parseIPv6 parses the text forms of RFC 4291, section 2.2.
func parseIPv6(out []byte, s string) bool {
	var head, tail []byte
	before, after, gap := cut(s, "::")
	head, ok := groups(before, !gap)
	if !ok {
		return false
	}
	if gap {
		if tail, ok = groups(after, true); !ok {
			return false
		}
	}
	missing := 16 - len(head) - len(tail)
	if missing < 0 || gap == (missing == 0) {
		return false
	}
	clear(out[:16])
	copy(out, head)
	copy(out[16-len(tail):16], tail)
	return true
}

// groups parses groups of four hexadecimal digits; the last may be an IPv4
// address.
func groups(s string, last bool) ([]byte, bool) {
	if s == "" {
		return nil, true
	}
	out := make([]byte, 0, 16)
	for {
		group, rest, more := cut(s, ":")
		if !more && last && strings.IndexByte(group, '.') >= 0 {
			var v4 [4]byte
			if strings.Count(group, ".") != 3 || !parseAddress(IPv4, v4[:], group) {
				return nil, false
			}
			return append(out, v4[:]...), true
		}
		v, err := strconv.ParseUint(group, 16, 16)
		if err != nil || len(group) > 4 || len(out) == 16 {
			return nil, false
		}
		out = append(out, byte(v>>8), byte(v))
		if !more {
			return out, true
		}
		s = rest
	}
}

// address prints an address as inet_ntop(3) does.
func (p *printer) address(addr []byte) {
	if p.family == IPv4 {
		p.ipv4(addr)
		return
	}
	from, to := longestGap(addr)
	for i := 0; i < 8; i++ {
		switch {
		case i == from:
			p.string("::")
			i = to - 1
			continue
		case i > 0 && i != to:
			p.byte(':')
		}
		if i == 6 && from == 0 && (to == 6 || to == 5 && addr[10] == 0xff && addr[11] == 0xff) {
			p.ipv4(addr[12:16]) // compatible or mapped
			return
		}
		p.text = strconv.AppendUint(p.text, uint64(addr[2*i])<<8|uint64(addr[2*i+1]), 16)
	}
}

func (p *printer) ipv4(addr []byte) {
	for i, v := range addr[:4] {
		if i > 0 {
			p.byte('.')
		}
		p.decimal(uint64(v))
	}
}

// longestGap returns the first of the longest runs of groups that are zero, if
// there are two at least; otherwise -1.
func longestGap(addr []byte) (from, to int) {
	from, to = -1, -1
	for i := 0; i < 8; i++ {
		j := i
		for j < 8 && addr[2*j] == 0 && addr[2*j+1] == 0 {
			j++
		}
		if j-i >= 2 && j-i > to-from {
			from, to = i, j
		}
		i = max(i, j-1)
	}
	return from, to
}

// parseMask writes the mask that s means, a number of bits or a mask.
func parseMask(f Family, out []byte, s string) bool {
	size := f.layout().addr
	if n, ok := parseNumber(s, uint64(8*size)); ok {
		setBits(out[:size], int(n))
		return true
	}
	return (f == IPv6 || strings.Count(s, ".") == 3) && parseAddress(f, out, s)
}

//go:noinline
func setBits(mask []byte, n int) {
	for i := range mask {
		mask[i] = ^byte(0xff >> min(8, max(0, n-8*i)))
	}
}

// prefix returns the number of bits of a mask, if it is no more than that.
//
//go:noinline
func prefix(mask []byte) (int, bool) {
	n := 0
	for n < len(mask) && mask[n] == 0xff {
		n++
	}
	length := 8 * n
	if n < len(mask) {
		length += bits.LeadingZeros8(^mask[n])
	}
	for i, v := range mask {
		if v != ^byte(0xff>>min(8, max(0, length-8*i))) {
			return 0, false
		}
	}
	return length, true
}

// mask prints a slash and the mask.
func (p *printer) mask(mask []byte) {
	p.byte('/')
	if n, ok := prefix(mask); ok {
		p.decimal(uint64(n))
	} else {
		p.address(mask)
	}
}

// parseNetwork writes the address and the mask of addr[/mask], the address
// without what the mask leaves out.
func parseNetwork(f Family, addr, mask []byte, s string) bool {
	size := f.layout().addr
	a, m, masked := cut(s, "/")
	if !parseAddress(f, addr, a) {
		return false
	}
	setBits(mask[:size], 8*size)
	if masked && !parseMask(f, mask, m) {
		return false
	}
	for i := range mask[:size] {
		addr[i] &= mask[i]
	}
	return true
}
