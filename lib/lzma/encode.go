package lzma

import "math/bits"

// Encode packs data with a dictionary (nil for none). The same input gives the
// same stream.
func Encode(data, dictionary []byte) []byte {
	e := &encoder{
		bits: 0xffffffff, cached: 1, start: len(dictionary),
		all: append(append(make([]byte, 0, len(dictionary)+len(data)), dictionary...), data...),
	}
	e.reset()
	e.finder = newFinder(e.all)
	e.finder.skip(0, e.start)
	e.run()
	for range 5 {
		e.shiftLow()
	}
	return e.out
}

// encoder writes a stream: of all, what is after start.
type encoder struct {
	model
	out    []byte
	low    uint64
	bits   uint32
	cache  byte
	cached int // bytes that wait for a carry

	all    []byte
	start  int
	finder *finder
	state  int
	rep    [4]uint32 // the last distances, less one
}

func (e *encoder) shiftLow() {
	if e.low < 0xff000000 || e.low > 0xffffffff {
		carry := byte(e.low >> 32)
		for ; e.cached > 0; e.cached-- {
			e.out = append(e.out, e.cache+carry)
			e.cache = 0xff
		}
		e.cache = byte(e.low >> 24)
	}
	e.cached++
	e.low = e.low & 0x00ffffff << 8
}

func (e *encoder) bit(p *uint16, b int) {
	bound := e.bits >> modelBits * uint32(*p)
	if b == 0 {
		e.bits = bound
		*p += (1<<modelBits - *p) >> moveBits
	} else {
		e.low += uint64(bound)
		e.bits -= bound
		*p -= *p >> moveBits
	}
	if e.bits < topValue {
		e.bits <<= 8
		e.shiftLow()
	}
}

func (e *encoder) direct(v uint32, count int) {
	for i := count - 1; i >= 0; i-- {
		e.bits >>= 1
		if v>>i&1 != 0 {
			e.low += uint64(e.bits)
		}
		if e.bits < topValue {
			e.bits <<= 8
			e.shiftLow()
		}
	}
}

func (e *encoder) tree(p []uint16, v uint32, count int) {
	m := 1
	for i := count - 1; i >= 0; i-- {
		b := int(v >> i & 1)
		e.bit(&p[m], b)
		m = m<<1 | b
	}
}

func (e *encoder) reverse(p []uint16, v uint32, count int) {
	m := 1
	for i := range count {
		b := int(v >> i & 1)
		e.bit(&p[m], b)
		m = m<<1 | b
	}
}

func (e *encoder) length(m *lengthModel, n int) {
	switch {
	case n < 8:
		e.bit(&m.choice, 0)
		e.tree(m.low[:], uint32(n), 3)
	case n < 16:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 0)
		e.tree(m.mid[:], uint32(n-8), 3)
	default:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 1)
		e.tree(m.high[:], uint32(n-16), 8)
	}
}

// distance writes the distance of a match of a length (less minMatch), less one.
func (e *encoder) distance(v uint32, length int) {
	slot := v
	if v >= startPosModel {
		top := uint32(bits.Len32(v)) - 1
		slot = top<<1 | v>>(top-1)&1
	}
	e.tree(e.slot[min(length, lengthStates-1)][:], slot, 6)
	if slot < startPosModel {
		return
	}
	count := int(slot>>1) - 1
	base := (2 | slot&1) << count
	if slot < endPosModel {
		e.reverse(e.position[base-slot:], v-base, count)
		return
	}
	e.direct((v-base)>>alignBits, count-alignBits)
	e.reverse(e.align[:], v, alignBits)
}

func (e *encoder) literalAt(at int) {
	var before byte
	if at > 0 {
		before = e.all[at-1]
	}
	p := e.model.literal[0x300*int(before>>(8-lc)):][:0x300]
	value, symbol := int(e.all[at]), 1
	e.bit(&e.isMatch[e.state], 0)
	i := 7
	if e.state >= literalStates {
		match := int(e.all[at-1-int(e.rep[0])])
		for same := true; same && i >= 0; i-- {
			want, b := match>>i&1, value>>i&1
			e.bit(&p[0x100+want<<8+symbol], b)
			symbol = symbol<<1 | b
			same = want == b
		}
	}
	for ; i >= 0; i-- {
		b := value >> i & 1
		e.bit(&p[symbol], b)
		symbol = symbol<<1 | b
	}
	e.state = afterLiteral(e.state)
}

// repeat writes a match at the which-th of the last distances.
func (e *encoder) repeat(which, length int) {
	e.bit(&e.isMatch[e.state], 1)
	e.bit(&e.isRep[e.state], 1)
	if which == 0 {
		e.bit(&e.isRepG0[e.state], 0)
		long := 1
		if length == 1 {
			long = 0
		}
		e.bit(&e.isRep0Long[e.state], long)
	} else {
		e.bit(&e.isRepG0[e.state], 1)
		if which == 1 {
			e.bit(&e.isRepG1[e.state], 0)
		} else {
			e.bit(&e.isRepG1[e.state], 1)
			e.bit(&e.isRepG2[e.state], which-2)
		}
		distance := e.rep[which]
		copy(e.rep[1:], e.rep[:which])
		e.rep[0] = distance
	}
	if length == 1 {
		e.state = after(e.state, stateShortRep)
		return
	}
	e.length(&e.repeated, length-minMatch)
	e.state = after(e.state, stateRep)
}

func (e *encoder) match(distance uint32, length int) {
	e.bit(&e.isMatch[e.state], 1)
	e.bit(&e.isRep[e.state], 0)
	e.length(&e.model.length, length-minMatch)
	e.distance(distance, length-minMatch)
	e.rep = [4]uint32{distance, e.rep[0], e.rep[1], e.rep[2]}
	e.state = after(e.state, stateMatch)
}
