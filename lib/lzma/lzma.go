// Package lzma packs a file as a raw LZMA stream (LZMA1: lc 3, lp 0, pb 0), for
// which another file may be the preset dictionary: what both have costs next to
// nothing. Two static Go programs share most of the Go runtime.
//
// The stream has no header and no end marker: whoever stores it stores the size
// of what was packed, too. `xz --format=raw` reads and writes the same without a
// dictionary. The format is in the LZMA specification of the LZMA SDK.
//
// [Decode] is for the guest and small; [Encode] is for the image's builder.
package lzma

const (
	lc             = 3 // bits of the byte before that choose a literal's model
	states         = 12
	lengthStates   = 4  // of the models of distances, by length
	startPosModel  = 4  // first distance slot with bits of a model
	endPosModel    = 14 // first slot whose low bits but alignBits have no model
	fullDistances  = 1 << (endPosModel / 2)
	alignBits      = 4
	minMatch       = 2
	maxMatch       = minMatch + 8 + 8 + 256 - 1
	modelBits      = 11
	moveBits       = 5
	initial        = 1 << (modelBits - 1)
	topValue       = 1 << 24
	literalStates  = 7 // states below have a literal as the last symbol
	stateMatch     = 7
	stateRep       = 8
	stateShortRep  = 9
	stateLitOffset = 3 // what a literal adds when the last was a match
)

// lengthModel are the models of a match's length.
type lengthModel struct {
	choice, choice2 uint16
	low, mid        [8]uint16
	high            [256]uint16
}

// model are the probabilities of everything a stream says.
type model struct {
	isMatch, isRep, isRepG0, isRepG1, isRepG2, isRep0Long [states]uint16

	slot     [lengthStates][64]uint16
	position [1 + fullDistances - endPosModel]uint16
	align    [1 << alignBits]uint16
	length   lengthModel
	repeated lengthModel
	literal  [0x300 << lc]uint16
}

func (m *model) reset() {
	for _, set := range m.all() {
		for i := range set {
			set[i] = initial
		}
	}
	for _, l := range []*lengthModel{&m.length, &m.repeated} {
		l.choice, l.choice2 = initial, initial
	}
}

// all returns the models that are arrays.
func (m *model) all() [][]uint16 {
	return [][]uint16{
		m.isMatch[:], m.isRep[:], m.isRepG0[:], m.isRepG1[:], m.isRepG2[:], m.isRep0Long[:],
		m.slot[0][:], m.slot[1][:], m.slot[2][:], m.slot[3][:], m.position[:], m.align[:],
		m.length.low[:], m.length.mid[:], m.length.high[:],
		m.repeated.low[:], m.repeated.mid[:], m.repeated.high[:], m.literal[:],
	}
}

// afterLiteral is the state after a literal.
func afterLiteral(state int) int {
	switch {
	case state < 4:
		return 0
	case state < 10:
		return state - stateLitOffset
	}
	return state - 6
}

// after is the state after a match, whose state it is if a literal came before.
func after(state, kind int) int {
	if state < literalStates {
		return kind
	}
	if kind == stateMatch {
		return 10
	}
	return 11
}
