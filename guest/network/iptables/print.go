package iptables

import (
	"bytes"
	"math/bits"
	"strconv"
)

// printer collects a text.
type printer struct {
	family Family
	text   []byte
}

//go:noinline
func (p *printer) string(s string) { p.text = append(p.text, s...) }

//go:noinline
func (p *printer) byte(c byte) { p.text = append(p.text, c) }

//go:noinline
func (p *printer) decimal(n uint64) { p.text = strconv.AppendUint(p.text, n, 10) }

// hex prints a number with 0x before it.
//
//go:noinline
func (p *printer) hex(n uint32) {
	p.string("0x")
	p.text = strconv.AppendUint(p.text, uint64(n), 16)
}

// not prints an exclamation mark, if that is so, and a blank.
//
//go:noinline
func (p *printer) not(not bool) {
	if not {
		p.string(" !")
	}
	p.byte(' ')
}

// options prints the options that say what is in a structure.
func (p *printer) options(e *extension, data []byte) {
	preset := make([]byte, e.size)
	e.fill(preset)
	for i := range e.options {
		o := &e.options[i]
		if !o.visible(data, preset) {
			continue
		}
		p.not(o.not.size != 0 && o.not.is(data))
		p.string(o.first())
		if o.kind != none {
			p.byte(' ')
			p.value(o, data)
		}
	}
}

// visible says whether the option is printed.
func (o *option) visible(data, preset []byte) bool {
	holds := o.when.size == 0 || o.when.is(data)
	switch {
	case o.show == hidden || !holds:
		return false
	case o.show == shown || o.show == required || o.when.value != 0:
		return true
	}
	size := int(o.size)
	switch o.kind {
	case zone:
		if data[0]&zoneFromMark != 0 {
			return true
		}
	case span, dashed:
		size *= 2
	case quoted:
		size = int(o.also) + 1
	}
	return !bytes.Equal(data[o.at:][:size], preset[o.at:][:size]) || o.not.size != 0 && o.not.is(data)
}

// value prints the value of an option.
func (p *printer) value(o *option, data []byte) {
	at := data[o.at:]
	n := uint32(0)
	if o.size != 0 {
		n = number(at, o.size)
	}
	switch o.kind {
	case decimal, protocol:
		p.decimal(uint64(n))
	case plusOne:
		p.decimal(uint64(n) + 1)
	case zone:
		if data[0]&zoneFromMark != 0 {
			p.string(zoneMark)
			return
		}
		p.decimal(uint64(n))
	case bigEndian:
		p.decimal(uint64(at[0])<<8 | uint64(at[1]))
	case choice:
		p.string(nameOf(o.words, n&o.bits()))
	case set:
		p.set(o.words, n)
	case quoted:
		p.quoted(text(at[:int(o.also)+1]))
	case span:
		p.span(':', n, number(at[o.size:], o.size))
	case dashed:
		p.span('-', n, number(at[o.size:], o.size))
	case splitSpan:
		p.span(':', n, number(data[o.also:], o.size))
	case hexMask, hexBoth, copyMarks:
		p.mark(o, data)
	case address:
		p.address(at)
	case network:
		mask := data[o.also:][:p.family.layout().addr]
		p.address(at)
		if n, ok := prefix(mask); !ok || n != 8*len(mask) {
			p.mask(mask)
		}
	case portList:
		p.ports(data)
	case rate:
		p.rate(number(at, 4))
	case chance:
		p.chance(number(at, 4))
	case tcpFlags:
		p.flags(at[0])
		p.byte(' ')
		p.flags(at[1])
	case icmpType:
		p.icmp(at)
	case natCompat, natRange, natRange2, natPorts4, natPorts6:
		p.nat(o, data)
	}
}

// mark prints a mark and its mask, or the two masks of a mark that is copied.
func (p *printer) mark(o *option, data []byte) {
	if o.kind == copyMarks {
		p.string("--nfmask ")
		p.hex(number(data[8:], 4))
		p.string(" --ctmask ")
		p.hex(number(data[4:], 4))
		return
	}
	p.hex(number(data[o.at:], 4))
	if mask := number(data[o.also:], 4); o.kind == hexBoth || mask != 0xffffffff {
		p.byte('/')
		p.hex(mask)
	}
}

func (p *printer) set(words string, chosen uint32) {
	start := len(p.text)
	for words != "" {
		name, value, rest := nextWord(words)
		if chosen&value != 0 || chosen == 0 && value == 0 {
			if len(p.text) > start {
				p.byte(',')
			}
			p.string(name)
		}
		words = rest
	}
}

func (p *printer) span(separator byte, low, high uint32) {
	p.decimal(uint64(low))
	if low != high {
		p.byte(separator)
		p.decimal(uint64(high))
	}
}

func (p *printer) ports(data []byte) {
	separator := byte(0)
	for n := 0; n < min(int(data[1]), maxPorts); n++ {
		if separator != 0 {
			p.byte(separator)
		}
		p.decimal(uint64(number(data[2+2*n:], 2)))
		separator = ','
		if data[32+n] != 0 {
			separator = ':'
		}
	}
}

// rate prints the rate that a period means, in the largest unit that says it
// exactly enough.
func (p *printer) rate(period uint32) {
	if period == 0 {
		p.byte('0') // not what can be asked for
		return
	}
	name, length, rest := nextWord(rateUnits)
	for rest != "" {
		shorter, l, more := nextWord(rest)
		if unit := l * rateScale; period > unit || unit/period < unit%period {
			break
		}
		name, length, rest = shorter, l, more
	}
	p.decimal(uint64(length * rateScale / period))
	p.byte('/')
	if length <= 60 {
		name = name[:3] // min, sec
	}
	p.string(name)
}

// chance prints a part of 2^31 with eleven decimals, rounded as printf(3) does.
// (strconv would do, and be 10 KB.)
func (p *printer) chance(part uint32) {
	const scale = 100_000_000_000
	high, low := bits.Mul64(uint64(part), scale)
	n, rest := high<<33|low>>31, low&(1<<31-1)
	if rest > 1<<30 || rest == 1<<30 && n&1 != 0 {
		n++
	}
	p.decimal(n / scale)
	p.byte('.')
	start := len(p.text)
	p.decimal(n%scale + scale) // a digit more, to have the zeros
	p.text[start] = '.'
	p.text = append(p.text[:start-1], p.text[start:]...)
}

func (p *printer) flags(flags byte) {
	if flags == 0 {
		p.string("NONE")
	}
	p.set(tcpFlagNames, uint32(flags))
}

func (p *printer) icmp(data []byte) {
	if data[0] == 0xff && p.family == IPv4 {
		p.string("any")
		return
	}
	p.decimal(uint64(data[0]))
	if data[1] != 0 || data[2] != 0xff {
		p.byte('/')
		p.decimal(uint64(data[1]))
	}
}

// quoted prints a string as the tools of iptables do.
func (p *printer) quoted(s string) {
	plain := s != ""
	for i := range len(s) {
		c := s[i] | 0x20
		plain = plain && (c >= 'a' && c <= 'z' || s[i] >= '0' && s[i] <= '9' || s[i] == '_' || s[i] == '-')
	}
	if plain {
		p.string(s)
		return
	}
	p.byte('"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' || c == '\'' {
			p.byte('\\')
		}
		p.byte(s[i])
	}
	p.byte('"')
}
