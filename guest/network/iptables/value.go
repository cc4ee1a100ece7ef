package iptables

import (
	"math/bits"
	"strconv"
	"strings"
)

// errValue is the error of values that need no more said than that they are
// wrong.
const errValue = problem("it is not a value of this option")

// parseNumber reads an unsigned number with or without a base, as strtoul(3)
// does.
//
//go:noinline
func parseNumber(s string, most uint64) (uint64, bool) {
	base := 10
	switch {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		base = 8
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil && n <= most
}

// parseValue writes what the value of an option means into the structure.
func (o *option) parseValue(f Family, data []byte, value, second string) error {
	ok := true
	switch o.kind {
	case decimal, plusOne, bigEndian, protocol:
		ok = o.parseDecimal(data, value)
	case zone:
		if value == zoneMark {
			data[0] |= zoneFromMark
			return nil
		}
		ok = o.parseDecimal(data, value)
	case choice:
		var chosen uint32
		if chosen, ok = lookUp(o.words, value); ok {
			putNumber(data[o.at:], o.size, number(data[o.at:], o.size)&^o.bits()|chosen)
		}
	case set:
		var all uint32
		if all, ok = parseSet(o.words, value); ok {
			putNumber(data[o.at:], o.size, all)
		}
	case quoted:
		if len(value) > int(o.also) {
			return problem("it is longer than " + strconv.Itoa(int(o.also)) + " bytes")
		}
		if strings.IndexByte(value, 0) >= 0 || strings.IndexByte(value, '\n') >= 0 {
			return errValue
		}
		copy(data[o.at:], value) // into zeros
	case span, dashed, splitSpan:
		ok = o.parseSpan(data, value)
	case hexMask, hexBoth, orMask, andBits, orBits, xorBits, hexValue, bothMasks, copyMarks:
		ok = o.parseMark(data, value)
	case address:
		ok = parseAddress(f, data[o.at:], value)
	case network:
		ok = parseNetwork(f, data[o.at:][:16], data[o.also:][:16], value)
	case portList:
		return parsePorts(data, value)
	case rate:
		return parseRate(data[o.at:], value)
	case chance:
		ok = parseChance(data[o.at:], value)
	case tcpFlags:
		ok = o.parseTCPFlags(data, value, second)
	case icmpType:
		ok = o.parseICMP(data, value)
	case natCompat, natRange, natRange2, natPorts4, natPorts6:
		return o.parseNAT(f, data, value)
	}
	if !ok {
		return errValue
	}
	return nil
}

func (o *option) parseDecimal(data []byte, value string) bool {
	size := o.size
	if o.kind == bigEndian {
		size = 2
	}
	most := uint64(1)<<(8*size) - 1
	n, ok := parseNumber(value, most)
	switch {
	case !ok && o.kind == protocol:
		p, known := protocolNumber(value)
		n, ok = uint64(p), known && p != 0
	case !ok:
		var v uint32
		v, ok = lookUp(o.words, value)
		n = uint64(v)
	case o.kind == plusOne:
		ok = n > 0
		n--
	case o.kind == bigEndian:
		n = n>>8 | n&0xff<<8
	}
	if ok {
		putNumber(data[o.at:], size, uint32(n))
	}
	return ok
}

// zoneFromMark is XT_CT_ZONE_MARK, a flag of struct xt_ct_target_info_v1.
const (
	zoneFromMark = 1 << 4
	zoneMark     = "mark"
)

// nextWord splits the first NAME=VALUE from a list of them.
//
//go:noinline
func nextWord(words string) (name string, value uint32, rest string) {
	word, rest, _ := cut(words, " ")
	name, number, _ := cut(word, "=")
	n, _ := parseNumber(number, 0xffffffff)
	return name, uint32(n), rest
}

// lookUp finds the value of a name in a list of NAME=VALUE, whatever its case.
//
//go:noinline
func lookUp(words, name string) (uint32, bool) {
	for words != "" {
		known, value, rest := nextWord(words)
		if strings.EqualFold(known, name) {
			return value, true
		}
		words = rest
	}
	return 0, false
}

// nameOf finds the first name of a value, or "".
//
//go:noinline
func nameOf(words string, value uint32) string {
	for words != "" {
		name, v, rest := nextWord(words)
		if v == value {
			return name
		}
		words = rest
	}
	return ""
}

// bits returns the bits of a choice.
func (o *option) bits() uint32 {
	if o.size == 4 {
		return 0xffffffff
	}
	var all uint32
	for rest := o.words; rest != ""; {
		var bits uint32
		_, bits, rest = nextWord(rest)
		all |= bits
	}
	return all
}

// parseSet reads several words with commas between them.
func parseSet(words, value string) (all uint32, ok bool) {
	for more := true; more; {
		var name string
		name, value, more = cut(value, ",")
		bits, ok := lookUp(words, name)
		if !ok {
			return 0, false
		}
		all |= bits
	}
	return all, true
}

// parseSpan reads LOW, LOW:HIGH, LOW:, :HIGH or :, or the same with a dash.
func (o *option) parseSpan(data []byte, value string) bool {
	separator := ":"
	if o.kind == dashed {
		separator = "-"
	}
	most := uint64(1)<<(8*o.size) - 1
	if o.kind == dashed {
		most-- // it stands for nobody
	}
	from, to, both := cut(value, separator)
	low, high, ok := uint64(0), most, true
	if from != "" || !both {
		low, ok = parseNumber(from, most)
	}
	switch {
	case !both:
		high = low
	case to != "":
		var valid bool
		high, valid = parseNumber(to, most)
		ok = ok && valid
	}
	if !ok || low > high {
		return false
	}
	putNumber(data[o.at:], o.size, uint32(low))
	putNumber(data[o.second():], o.size, uint32(high))
	return true
}

// second returns where the second number of a span is.
func (o *option) second() uint8 {
	if o.kind == splitSpan {
		return o.also
	}
	return o.at + o.size
}

// parseMark reads the options that set or compare a mark.
func (o *option) parseMark(data []byte, value string) bool {
	const all = 0xffffffff
	v, m, masked := cut(value, "/")
	mark, ok := parseNumber(v, all)
	mask := uint64(all)
	if masked && ok {
		mask, ok = parseNumber(m, all)
		ok = ok && (o.kind == hexMask || o.kind == hexBoth || o.kind == orMask)
	}
	switch o.kind {
	case orMask:
		mask |= mark
	case andBits:
		mark, mask = 0, ^mark
	case orBits:
		mask = mark
	case xorBits:
		mask = 0
	case bothMasks:
		mask = mark
	case hexValue:
		if ok {
			putNumber(data[o.at:], 4, uint32(mark))
		}
		return ok
	case copyMarks:
		return value == ""
	}
	if ok {
		putNumber(data[o.at:], 4, uint32(mark))
		putNumber(data[o.also:], 4, uint32(mask))
	}
	return ok
}

// maxPorts is XT_MULTI_PORTS: how many ports fit, a range being two.
const maxPorts = 15

// parsePorts reads the ports of struct xt_multiport_v1: how many at 1, the
// ports from 2, and from 32 whether a port is the first of a range.
func parsePorts(data []byte, value string) error {
	n := 0
	for more := true; more; n++ {
		var part string
		part, value, more = cut(value, ",")
		from, to, isRange := cut(part, ":")
		low, ok := parseNumber(from, 0xffff)
		high := low
		if isRange && ok {
			high, ok = parseNumber(to, 0xffff)
		}
		if !ok || low > high {
			return errValue
		}
		if n+1 > maxPorts || isRange && n+2 > maxPorts {
			return problem("it has more than 15 ports, a range counting as two")
		}
		putNumber(data[2+2*n:], 2, uint32(low))
		if isRange {
			data[32+n] = 1
			n++
			putNumber(data[2+2*n:], 2, uint32(high))
		}
	}
	data[1] = byte(n)
	return nil
}

// rateScale is XT_LIMIT_SCALE: a rate is kept as the time between two packets,
// in this part of a second.
const rateScale = 10000

const rateUnits = "day=86400 hour=3600 minute=60 second=1"

// parseRate reads NUMBER[/UNIT].
func parseRate(data []byte, value string) error {
	count, name, named := cut(value, "/")
	seconds := uint64(1)
	if named {
		seconds = 0
		for rest := rateUnits; rest != "" && name != ""; {
			var unit string
			var length uint32
			unit, length, rest = nextWord(rest)
			if len(name) <= len(unit) && strings.EqualFold(name, unit[:len(name)]) {
				seconds = uint64(length)
			}
		}
	}
	n, ok := parseNumber(count, 0xffffffff)
	switch {
	case !ok || n == 0 || seconds == 0:
		return errValue
	case rateScale*seconds/n == 0:
		return problem("it is too fast")
	}
	putNumber(data, 4, uint32(rateScale*seconds/n))
	return nil
}

// parseChance reads a decimal fraction from 0 to 1. (strconv.ParseFloat would
// make the agent 10 KB longer.)
func parseChance(data []byte, value string) bool {
	whole, fraction, _ := cut(value, ".")
	const digits = 18
	for len(fraction) < digits {
		fraction += "0"
	}
	units, err := strconv.ParseUint(whole, 10, 1)
	parts, err2 := strconv.ParseUint(fraction[:digits], 10, 64)
	if err != nil || err2 != nil || units == 1 && parts != 0 {
		return false
	}
	high, low := bits.Mul64(parts, 1<<31)
	low, carry := bits.Add64(low, scale18/2, 0)
	parts, _ = bits.Div64(high+carry, low, scale18)
	putNumber(data, 4, uint32(units<<31+parts))
	return true
}

const scale18 = 1_000_000_000_000_000_000

// parseTCPFlags reads the flags to look at and those of them that are to be set.
func (o *option) parseTCPFlags(data []byte, mask, compare string) bool {
	m, ok := parseSet(tcpFlagWords, mask)
	c, valid := parseSet(tcpFlagWords, compare)
	data[o.at], data[o.at+1] = byte(m), byte(c)
	return ok && valid
}

// parseICMP reads a type with or without a code, or the name of one.
func (o *option) parseICMP(data []byte, value string) bool {
	t, c, coded := cut(value, "/")
	if n, ok := parseNumber(t, 255); ok {
		low, high := uint64(0), uint64(255)
		if coded {
			low, ok = parseNumber(c, 255)
			high = low
		}
		data[0], data[1], data[2] = byte(n), byte(low), byte(high)
		return ok
	}
	v, ok := lookUp(o.words, value)
	data[0], data[1], data[2] = byte(v>>16), byte(v>>8), byte(v)
	return ok
}

// protocols are the protocols that have names here; the first name of a number
// is the one that is printed.
const protocols = "all=0 icmp=1 igmp=2 ipencap=4 tcp=6 udp=17 dccp=33 ipv6=41 gre=47 esp=50 ah=51 ipv6-icmp=58 icmpv6=58 " +
	"icmp6=58 ospf=89 pim=103 vrrp=112 l2tp=115 sctp=132 mobility-header=135 ipv6-mh=135 mh=135 udplite=136"

func protocolNumber(name string) (uint32, bool) {
	if n, ok := parseNumber(name, 255); ok {
		return uint32(n), true
	}
	return lookUp(protocols, name)
}

// protocolName returns the name of a protocol, or its number.
func protocolName(n uint32) string {
	if name := nameOf(protocols, n); name != "" {
		return name
	}
	return strconv.Itoa(int(n))
}
