package lzma

import "errors"

// ErrCorrupt says that a stream is not one.
var ErrCorrupt = errors.New("corrupt LZMA stream")

// Decode fills dst with what a stream holds, which was packed with a dictionary
// (nil for none). The error is ErrCorrupt; dst is garbage then.
func Decode(dst, dictionary, stream []byte) error {
	d := &decoder{in: stream, dst: dst, dictionary: dictionary, bits: 0xffffffff}
	d.reset()
	for range 5 {
		d.code = d.code<<8 | uint32(d.next())
	}
	d.run()
	if d.bad {
		return ErrCorrupt
	}
	return nil
}

// decoder reads a stream.
type decoder struct {
	model
	in         []byte
	bits, code uint32
	bad        bool // the stream has ended, or means what is not there

	dst, dictionary []byte
	n               int       // of dst that is done
	rep             [4]uint32 // the last distances, less one
}

func (d *decoder) next() byte {
	if len(d.in) == 0 {
		d.bad = true
		return 0
	}
	b := d.in[0]
	d.in = d.in[1:]
	return b
}

// bit reads one bit with a model.
func (d *decoder) bit(p *uint16) int {
	bound := d.bits >> modelBits * uint32(*p)
	b := 0
	if d.code < bound {
		d.bits = bound
		*p += (1<<modelBits - *p) >> moveBits
	} else {
		d.bits -= bound
		d.code -= bound
		*p -= *p >> moveBits
		b = 1
	}
	if d.bits < topValue {
		d.bits <<= 8
		d.code = d.code<<8 | uint32(d.next())
	}
	return b
}

// direct reads bits without a model.
func (d *decoder) direct(count int) (v uint32) {
	for range count {
		d.bits >>= 1
		v <<= 1
		if d.code >= d.bits {
			d.code -= d.bits
			v |= 1
		}
		if d.bits < topValue {
			d.bits <<= 8
			d.code = d.code<<8 | uint32(d.next())
		}
	}
	return v
}

// tree reads a number of count bits, the highest first.
func (d *decoder) tree(p []uint16, count int) uint32 {
	m := 1
	for range count {
		m = m<<1 | d.bit(&p[m])
	}
	return uint32(m - 1<<count)
}

// reverse reads a number of count bits, the lowest first.
func (d *decoder) reverse(p []uint16, count int) (v uint32) {
	m := 1
	for i := range count {
		b := d.bit(&p[m])
		m = m<<1 | b
		v |= uint32(b) << i
	}
	return v
}

func (d *decoder) lengthOf(m *lengthModel) int {
	if d.bit(&m.choice) == 0 {
		return int(d.tree(m.low[:], 3))
	}
	if d.bit(&m.choice2) == 0 {
		return 8 + int(d.tree(m.mid[:], 3))
	}
	return 16 + int(d.tree(m.high[:], 8))
}

// distance reads the distance of a match of a length (less minMatch), less one.
func (d *decoder) distance(length int) uint32 {
	slot := d.tree(d.slot[min(length, lengthStates-1)][:], 6)
	if slot < startPosModel {
		return slot
	}
	count := int(slot>>1) - 1
	v := (2 | slot&1) << count
	if slot < endPosModel {
		return v + d.reverse(d.position[v-slot:], count)
	}
	v += d.direct(count-alignBits) << alignBits
	return v + d.reverse(d.align[:], alignBits)
}

// back returns the byte at a distance, less one, before what is done.
func (d *decoder) back(distance uint32) byte {
	i := d.n - 1 - int(distance)
	if i >= 0 {
		return d.dst[i]
	}
	if i += len(d.dictionary); i >= 0 {
		return d.dictionary[i]
	}
	d.bad = true
	return 0
}

func (d *decoder) literalByte(state int) {
	var before byte
	if d.n > 0 || len(d.dictionary) > 0 {
		before = d.back(0)
	}
	p := d.literal[0x300*int(before>>(8-lc)):][:0x300]
	symbol := 1
	if state >= literalStates {
		match := int(d.back(d.rep[0]))
		for symbol < 0x100 {
			match <<= 1
			want := match & 0x100
			b := d.bit(&p[0x100+want+symbol])
			symbol = symbol<<1 | b
			if want>>8 != b {
				break
			}
		}
	}
	for symbol < 0x100 {
		symbol = symbol<<1 | d.bit(&p[symbol])
	}
	d.dst[d.n] = byte(symbol)
	d.n++
}

// run decodes until dst is full.
func (d *decoder) run() {
	state := 0
	for d.n < len(d.dst) && !d.bad {
		if d.bit(&d.isMatch[state]) == 0 {
			d.literalByte(state)
			state = afterLiteral(state)
			continue
		}
		length := 1
		if d.bit(&d.isRep[state]) == 0 {
			length = d.lengthOf(&d.length)
			d.rep = [4]uint32{d.distance(length), d.rep[0], d.rep[1], d.rep[2]}
			length += minMatch
			state = after(state, stateMatch)
		} else if which := d.which(state); which < 0 {
			state = after(state, stateShortRep)
		} else {
			length = minMatch + d.lengthOf(&d.repeated)
			distance := d.rep[which]
			copy(d.rep[1:], d.rep[:which])
			d.rep[0] = distance
			state = after(state, stateRep)
		}
		for ; length > 0 && d.n < len(d.dst); length-- {
			d.dst[d.n] = d.back(d.rep[0])
			d.n++
		}
		d.bad = d.bad || length > 0
	}
}

// which reads which of the last distances is repeated, or -1 for one byte of the
// last.
func (d *decoder) which(state int) int {
	switch {
	case d.bit(&d.isRepG0[state]) == 0:
		return d.bit(&d.isRep0Long[state]) - 1
	case d.bit(&d.isRepG1[state]) == 0:
		return 1
	}
	return 2 + d.bit(&d.isRepG2[state])
}
