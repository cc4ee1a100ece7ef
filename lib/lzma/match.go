package lzma

import "encoding/binary"

const (
	hashBits = 20
	// chainDepth bounds how many places are tried for a match.
	chainDepth = 128
)

// finder finds what has been there before: chains of places with equal hashes
// of four bytes.
type finder struct {
	all  []byte
	head []int32 // the last place of a hash, plus one
	prev []int32 // the place before with the same hash, plus one
}

func newFinder(all []byte) *finder {
	return &finder{all: all, head: make([]int32, 1<<hashBits), prev: make([]int32, len(all))}
}

func (f *finder) hash(at int) uint32 {
	return binary.LittleEndian.Uint32(f.all[at:]) * 2654435761 >> (32 - hashBits)
}

// skip takes the places of count bytes into the chains.
func (f *finder) skip(at, count int) {
	for end := min(at+count, len(f.all)-3); at < end; at++ {
		h := f.hash(at)
		f.prev[at], f.head[h] = f.head[h], int32(at+1)
	}
}

// find returns the longest match at a place that is not in the chains yet, the
// nearest of those; distances are less one.
func (f *finder) find(at int) (distance uint32, length int) {
	if at+4 > len(f.all) {
		return 0, 0
	}
	limit := min(maxMatch, len(f.all)-at)
	place := int(f.head[f.hash(at)]) - 1
	for range chainDepth {
		if place < 0 || length == limit {
			break
		}
		if f.all[place+length] == f.all[at+length] {
			if n := f.equal(place, at, limit); n > length {
				distance, length = uint32(at-place-1), n
			}
		}
		place = int(f.prev[place]) - 1
	}
	return distance, length
}

// equal returns how many bytes at two places are the same.
func (f *finder) equal(a, b, limit int) int {
	n := 0
	for n < limit && f.all[a+n] == f.all[b+n] {
		n++
	}
	return n
}

// best returns the longest match at one of the last distances.
func (e *encoder) best(at int) (which, length int) {
	limit := min(maxMatch, len(e.all)-at)
	for i, distance := range e.rep {
		if place := at - 1 - int(distance); place >= 0 {
			if n := e.finder.equal(place, at, limit); n > length {
				which, length = i, n
			}
		}
	}
	return which, length
}

// run chooses between literals and matches: what is longer, but for a distance
// that is said again, which costs little, and for a better match a byte later.
func (e *encoder) run() {
	at := e.start
	distance, length := e.finder.find(at)
	for at < len(e.all) {
		which, repeated := e.best(at)
		e.finder.skip(at, 1)
		nextDistance, nextLength := e.finder.find(at + 1)
		taken := 1
		switch {
		case repeated >= minMatch && (repeated+1 >= length || repeated+2 >= length && distance > 1<<9 || repeated+3 >= length && distance > 1<<15):
			e.repeat(which, repeated)
			taken = repeated
		case length < 4 || length == 4 && distance > 1<<19 || nextLength > length+1 || e.betterSoon(at+1, length):
			e.short(at)
		default:
			e.match(distance, length)
			taken = length
		}
		if taken == 1 {
			distance, length = nextDistance, nextLength
		} else {
			e.finder.skip(at+1, taken-1)
			distance, length = e.finder.find(at + taken)
		}
		at += taken
	}
}

// betterSoon says that one of the last distances fits a byte later for about as
// long as a match.
func (e *encoder) betterSoon(at, length int) bool {
	_, repeated := e.best(at)
	return repeated >= length-1 && repeated >= minMatch
}

// short writes one byte, which may be that at the last distance.
func (e *encoder) short(at int) {
	if place := at - 1 - int(e.rep[0]); place >= 0 && e.all[place] == e.all[at] && e.state >= literalStates {
		e.repeat(0, 1)
		return
	}
	e.literalAt(at)
}
