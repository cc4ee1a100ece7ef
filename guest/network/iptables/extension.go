package iptables

// extension describes a match (-m) or a target (-j): its structure in the
// kernel, and the options that say what is in it.
type extension struct {
	name     string
	kernel   string // its name in the kernel, if another
	revision uint8
	family   Family
	// size is that of the structure with its padding; of that, user bytes are
	// the caller's, if not all.
	size, user uint16
	// protocols are the numbers of those that -p must name one of, if any.
	protocols string
	// table is the one that a target is for, hooks are those that it may be
	// reached from, as bits; if any.
	table string
	hooks uint8
	// preset is how the structure begins if no option says otherwise, always is
	// what the name itself says.
	preset string
	always cell
	// any says that some option must be given.
	any     bool
	options []option
}

//go:noinline
func (e *extension) kernelName() string {
	if e.kernel != "" {
		return e.kernel
	}
	return e.name
}

// cell is a number in a structure, or some bits of it: 16 at most, the low ones.
type cell struct {
	at, size    uint8 // bytes; size 0: no cell
	mask, value uint16
}

// bit is the cell of flags that are set.
func bit(at, size uint8, flags uint16) cell { return cell{at, size, flags, flags} }

// whole is the cell of a whole number.
func whole(at, size uint8, value uint16) cell { return cell{at, size, 0xffff, value} }

//go:noinline
func (c cell) is(data []byte) bool { return (uint16(number(data[c.at:], c.size))^c.value)&c.mask == 0 }

//go:noinline
func (c cell) set(data []byte) {
	n := number(data[c.at:], c.size)
	putNumber(data[c.at:], c.size, n&^uint32(c.mask)|uint32(c.value&c.mask))
}

// option describes an option of an extension.
type option struct {
	name string // and after a blank another one, for input
	kind kind
	at   uint8 // where the value is
	also uint8 // where its second part is: see kind
	size uint8 // of a number or a set of bits
	show show
	// when is what the option sets; it is printed only if that holds.
	when cell
	// not is set by an exclamation mark. Without, there may be none.
	not   cell
	words string // see lookUp
}

// show says when an option is printed.
type show uint8

const (
	changed  show = iota // when its value is not the preset one; a flag when it is set
	shown                // always, if when holds
	required             // the same, and then it must be given
	hidden               // never: it is short for something else
)

// kind says how a value is written and where it is kept.
type kind uint8

const (
	none      kind = iota // no value
	decimal               // a number
	plusOne               // a number, of which one less is kept
	bigEndian             // a number of 16 bits in network byte order
	protocol              // a number or a protocol's name, printed as a number
	choice                // one of words, whose bits are its own
	set                   // several of words, with commas
	quoted                // a string; also is what it and a zero fit in, less one
	span                  // two numbers of size bytes with a colon: LOW:HIGH
	dashed                // the same with a dash
	splitSpan             // the same with a colon, HIGH at also
	hexMask               // VALUE/MASK in hexadecimal, the mask at also; all ones are not printed
	hexBoth               // the same, always printed with its mask
	hexValue              // a value in hexadecimal
	orMask                // VALUE[/MASK] to set: the bits of VALUE are added to MASK
	andBits               // BITS to keep: value 0, mask their inverse
	orBits                // BITS to set: value and mask
	xorBits               // BITS to turn: value, mask 0
	bothMasks             // a mask for at and for also
	address               // an address
	network               // an address with its mask at also
	portList              // ports and ranges of them: struct xt_multiport_v1
	rate                  // packets in a time: struct xt_rateinfo
	chance                // a probability, in 2^-31
	tcpFlags              // two sets of flags: the ones looked at, and those of them that are set
	icmpType              // TYPE[/CODE] or one of words
	copyMarks             // printed with both masks, like --save-mark
	zone                  // a number, or "mark" for the packet's
	natCompat             // ADDRESS[-ADDRESS][:PORT[-PORT]]: struct nf_nat_ipv4_multi_range_compat
	natRange              // the same: struct nf_nat_range
	natRange2             // the same with /BASE: struct nf_nat_range2
	natPorts4             // PORT[-PORT] of the first
	natPorts6             // PORT[-PORT] of the second
)

// find returns the extension of a name, for text.
//
//go:noinline
func find(list []extension, f Family, name string) *extension {
	for i := range list {
		if e := &list[i]; e.name == name && e.family&f != 0 {
			return e
		}
	}
	return nil
}

// recognize returns the extension that the kernel's data is of.
func recognize(list []extension, f Family, name string, revision uint8, data []byte) *extension {
	for i := range list {
		e := &list[i]
		if e.kernelName() == name && e.revision == revision && e.family&f != 0 && int(e.size) == len(data) &&
			(e.always.size == 0 || e.always.is(data)) {
			return e
		}
	}
	return nil
}

// fill writes the preset values into the structure, which is zero.
//
//go:noinline
func (e *extension) fill(data []byte) {
	copy(data, e.preset)
	if e.always.size != 0 {
		e.always.set(data)
	}
}

// userSize returns how many bytes of the structure are the caller's.
//
//go:noinline
func (e *extension) userSize() int {
	if e.user != 0 {
		return int(e.user)
	}
	return int(e.size)
}

// first returns the option's own name.
//
//go:noinline
func (o *option) first() string {
	name, _, _ := cut(o.name, " ")
	return name
}

func (e *extension) option(name string) (*option, int) {
	for i := range e.options {
		o := &e.options[i]
		if first, second, _ := cut(o.name, " "); name == first || name == second {
			return o, i
		}
	}
	return nil, 0
}
