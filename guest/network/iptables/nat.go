package iptables

import "strings"

// natTarget is what a packet's address or ports are to become.
type natTarget struct {
	flags     uint32 // natMapIPs, natPorts, natOffset
	low, high [16]byte
	ports     [3]uint16 // lowest, highest, base
}

// natParts tells where the parts are: the flags at first, then two addresses of
// a size, then the ports.
//
//go:noinline
func (o *option) natParts(data []byte) (flags, low, high, ports []byte, size int) {
	size = 16
	if o.kind == natCompat || o.kind == natPorts4 {
		size = 4
	}
	at := data[o.at:]
	return at, at[4:], at[4+size:], at[4+2*size:], size
}

func (o *option) storeNAT(data []byte, n *natTarget) {
	flags, low, high, ports, size := o.natParts(data)
	putNumber(flags, 4, number(flags, 4)&^(natMapIPs|natPorts|natOffset)|n.flags)
	copy(low[:size], n.low[:])
	copy(high[:size], n.high[:])
	for i, p := range n.ports[:o.natPortCount()] {
		ports[2*i], ports[2*i+1] = byte(p>>8), byte(p)
	}
}

func (o *option) loadNAT(data []byte) *natTarget {
	flags, low, high, ports, size := o.natParts(data)
	n := &natTarget{flags: number(flags, 4)}
	copy(n.low[:], low[:size])
	copy(n.high[:], high[:size])
	for i := range o.natPortCount() {
		n.ports[i] = uint16(ports[2*i])<<8 | uint16(ports[2*i+1])
	}
	return n
}

func (o *option) natPortCount() int {
	if o.kind == natRange2 {
		return 3
	}
	return 2
}

// parseNAT reads [ADDRESS[-ADDRESS]][:PORT[-PORT[/BASE]]], with brackets around
// IPv6 addresses that ports follow, or PORT[-PORT] alone.
func (o *option) parseNAT(f Family, data []byte, value string) error {
	n := &natTarget{}
	addresses, ports, hasPorts := splitNAT(f, value)
	if o.kind == natPorts4 || o.kind == natPorts6 {
		addresses, ports, hasPorts = "", value, true
	}
	if addresses == "" && !hasPorts {
		return errValue
	}
	if addresses != "" {
		low, high, isRange := cut(addresses, "-")
		if !isRange {
			high = low
		}
		if !parseAddress(f, n.low[:], low) || !parseAddress(f, n.high[:], high) {
			return problem("it is not an address")
		}
		if string(n.low[:]) > string(n.high[:]) {
			return problem("the range ends before it begins")
		}
		n.flags |= natMapIPs
	}
	if hasPorts {
		if err := o.parseNATPorts(n, ports); err != nil {
			return err
		}
	}
	o.storeNAT(data, n)
	return nil
}

// splitNAT splits addresses from ports.
func splitNAT(f Family, value string) (addresses, ports string, hasPorts bool) {
	if f == IPv4 {
		return cut(value, ":")
	}
	inside, bracketed := strings.CutPrefix(value, "[")
	if !bracketed {
		if ports, only := strings.CutPrefix(value, ":"); only && strings.IndexByte(ports, ':') < 0 {
			return "", ports, true
		}
		return value, "", false
	}
	addresses, rest, closed := cut(inside, "]")
	if !closed || rest != "" && rest[0] != ':' {
		return value, "", false // which is no address
	}
	return addresses, strings.TrimPrefix(rest, ":"), rest != ""
}

func (o *option) parseNATPorts(n *natTarget, value string) error {
	value, base, shifted := cut(value, "/")
	from, to, isRange := cut(value, "-")
	low, ok := parseNumber(from, 0xffff)
	high := low
	if isRange && ok {
		high, ok = parseNumber(to, 0xffff)
	}
	if !ok || low == 0 || low > high {
		return problem("its ports are not PORT or PORT-PORT")
	}
	n.flags |= natPorts
	n.ports = [3]uint16{uint16(low), uint16(high)}
	if shifted {
		b, ok := parseNumber(base, 0xffff)
		if !ok || o.kind != natRange2 || !isRange {
			return problem("its base port has no range of ports to go with")
		}
		n.flags |= natOffset
		n.ports[2] = uint16(b)
	}
	return nil
}

func (p *printer) nat(o *option, data []byte) {
	n := o.loadNAT(data)
	alone := o.kind == natPorts4 || o.kind == natPorts6
	if n.flags&natMapIPs != 0 && !alone {
		brackets := p.family == IPv6 && n.flags&natPorts != 0
		if brackets {
			p.byte('[')
		}
		p.address(n.low[:])
		if n.low != n.high {
			p.byte('-')
			p.address(n.high[:])
		}
		if brackets {
			p.byte(']')
		}
	}
	if n.flags&natPorts == 0 {
		return
	}
	if !alone {
		p.byte(':')
	}
	p.decimal(uint64(n.ports[0]))
	if n.ports[0] != n.ports[1] || n.flags&natOffset != 0 {
		p.byte('-')
		p.decimal(uint64(n.ports[1]))
	}
	if n.flags&natOffset != 0 {
		p.byte('/')
		p.decimal(uint64(n.ports[2]))
	}
}
