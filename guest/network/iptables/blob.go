package iptables

// table is a table with its chains, the built-in ones first, in the order of
// their hooks.
type table struct {
	name   string
	family Family
	chains []*chain
	names  map[string]*chain // of a table that is read from text
}

// chain is a chain and its rules.
type chain struct {
	name     string
	hook     int // or -1: not built in
	policy   int32
	counters [countersSize]byte // of the policy
	// stated says that the text set the policy; otherwise the kernel's stays.
	stated bool
	rules  []*rule
	// reached has the hooks that lead here: bits; found is for finding loops.
	reached, found uint32
}

// rule is a rule in the kernel's form but for where it leads: the last part of
// entry is its target, which for a jump is made when the table is.
type rule struct {
	entry  []byte // header and matches; and the target, unless it is standard
	target target
	line   int
	// narrow is a match or target of it that some hooks must not lead to.
	narrow *extension
}

// target says where a rule leads.
type target struct {
	kind    targetKind
	verdict int32  // of targetVerdict
	chain   *chain // of targetJump
}

type targetKind uint8

const (
	targetNone    targetKind = iota // on to the next rule
	targetVerdict                   // ACCEPT, DROP, QUEUE, RETURN
	targetJump                      // a chain
	targetOther                     // an extension, which is part of the entry
)

// errCorrupt says that a table has not the form that the kernel promises.
const errCorrupt = problem("the kernel's table is not well-formed")

// entry is one entry of a kernel's table, checked.
type entry struct {
	offset, size, target int
	data                 []byte
}

// split returns the entries of a table.
func (b *blob) split(l *layout) ([]entry, error) {
	all := make([]entry, 0, min(int(b.number), len(b.entries)/l.header))
	for offset := 0; offset < len(b.entries); {
		rest := b.entries[offset:]
		if len(rest) < l.header+extHeader {
			return nil, errCorrupt
		}
		e := entry{offset: offset,
			target: int(number(rest[l.targetOffset:], 2)), size: int(number(rest[l.nextOffset:], 2))}
		if e.target < l.header || e.size > len(rest) || e.target+extHeader > e.size || e.size%align != 0 {
			return nil, errCorrupt
		}
		e.data = rest[:e.size]
		all = append(all, e)
		offset += e.size
	}
	if len(all) == 0 {
		return nil, errCorrupt
	}
	return all, nil
}

// targetName returns the name and the data of the entry's target.
//
//go:noinline
func (e entry) targetName() (name string, data []byte) {
	t := e.data[e.target:]
	return text(t[2 : 2+extNameLen]), t[extHeader:]
}

// verdict returns the verdict of a standard target, and whether it is one.
//
//go:noinline
func (e entry) verdict() (int32, bool) {
	name, data := e.targetName()
	if name != "" || len(data) < 4 {
		return 0, false
	}
	return int32(number(data, 4)), true
}

// decode makes a table of the kernel's form of one. Rules keep the bytes of b.
func (b *blob) decode(f Family) (*table, error) {
	l := f.layout()
	entries, err := b.split(l)
	if err != nil {
		return nil, err
	}
	t := &table{name: b.name, family: f}
	starts := map[int]*chain{} // by the offset of the first rule
	of := make([]*chain, len(entries))
	var current *chain
	for i, e := range entries[:len(entries)-1] { // the last one only ends the table
		if hook := b.hookAt(e.offset); hook >= 0 {
			current = &chain{name: hookName(hook), hook: hook}
			starts[e.offset] = current
			t.chains = append(t.chains, current)
		} else if name, data := e.targetName(); name == errorTarget {
			current = &chain{name: text(data), hook: -1}
			starts[e.offset+e.size] = current
			t.chains = append(t.chains, current)
			continue
		}
		of[i] = current
	}
	for i := range entries {
		if of[i] == nil {
			continue
		}
		if err := of[i].take(entries[i], l, starts); err != nil {
			return nil, place(b.name, of[i].name, len(of[i].rules), err)
		}
	}
	for _, c := range t.chains {
		if err := c.endAtPolicy(l); err != nil {
			return nil, err
		}
	}
	t.sort()
	return t, nil
}

// errorTarget is the target of the entries that begin a chain or end a table.
const errorTarget = "ERROR"

//go:noinline
func (b *blob) hookAt(offset int) int {
	for i := range hooks {
		if b.validHooks&(1<<i) != 0 && int(b.hookEntry[i]) == offset {
			return i
		}
	}
	return -1
}

// take appends the rule of an entry.
func (c *chain) take(e entry, l *layout, starts map[int]*chain) error {
	r := &rule{entry: e.data[:e.target:e.target]}
	verdict, standard := e.verdict()
	to := starts[int(verdict)]
	switch {
	case !standard:
		r.target.kind = targetOther
		r.entry = e.data
	case verdict < 0:
		r.target = target{kind: targetVerdict, verdict: verdict}
	case int(verdict) == e.offset+e.size && e.data[l.flags]&l.flagGoto == 0:
		r.target.kind = targetNone
	case to == nil:
		return problem("it jumps to where no chain begins")
	default:
		r.target = target{kind: targetJump, chain: to}
	}
	c.rules = append(c.rules, r)
	return nil
}

// endAtPolicy takes the last entry of the chain for what it is: its policy.
func (c *chain) endAtPolicy(l *layout) error {
	if len(c.rules) == 0 || c.rules[len(c.rules)-1].target.kind != targetVerdict {
		return wrong("chain", c.name, "it has no end")
	}
	last := c.rules[len(c.rules)-1]
	c.rules = c.rules[:len(c.rules)-1]
	c.policy = last.target.verdict
	copy(c.counters[:], last.entry[l.counters:])
	return nil
}

// sort orders the chains as the tools of iptables do.
func (t *table) sort() {
	// Shell's method: package slices would be compiled for this type once more.
	for gap := len(t.chains) / 2; gap > 0; gap /= 2 {
		for i := gap; i < len(t.chains); i++ {
			for j := i; j >= gap && t.chains[j].before(t.chains[j-gap]); j -= gap {
				t.chains[j], t.chains[j-gap] = t.chains[j-gap], t.chains[j]
			}
		}
	}
}

func (c *chain) before(other *chain) bool {
	if c.hook != other.hook { // built-in ones are first; the others have -1
		return uint8(c.hook) < uint8(other.hook)
	}
	return c.name < other.name
}

// encode makes the kernel's form of the table. The counters are those of the
// policies and of rules that set them, in the order of the entries.
func (t *table) encode() (b *blob, counters []byte) {
	t.sort()
	l := t.family.layout()
	b = &blob{name: t.name}
	begins := make(map[*chain]uint32, len(t.chains))
	offset := uint32(0)
	for _, c := range t.chains {
		if c.hook < 0 {
			offset += uint32(l.header + errorSize)
		}
		begins[c] = offset
		for i := range c.rules {
			offset += uint32(c.rules[i].size())
		}
		offset += uint32(l.header + standardSize)
	}
	size := int(offset) + l.header + errorSize
	b.entries = make([]byte, 0, size)
	for _, c := range t.chains {
		if c.hook >= 0 {
			b.validHooks |= 1 << c.hook
			b.hookEntry[c.hook] = uint32(len(b.entries))
		} else {
			counters = b.end(l, c.name, counters)
		}
		for i := range c.rules {
			counters = b.rule(l, c.rules[i], begins, counters)
		}
		if c.hook >= 0 {
			b.underflow[c.hook] = uint32(len(b.entries))
		}
		policy := &rule{entry: make([]byte, l.header), target: target{kind: targetVerdict, verdict: c.policy}}
		copy(policy.entry[l.counters:], c.counters[:])
		counters = b.rule(l, policy, begins, counters)
	}
	return b, b.end(l, errorTarget, counters)
}

//go:noinline
func (r *rule) size() int {
	if r.target.kind == targetOther {
		return len(r.entry)
	}
	return len(r.entry) + standardSize
}

// rule appends a rule, and its counters to counters.
func (b *blob) rule(l *layout, r *rule, begins map[*chain]uint32, counters []byte) []byte {
	start := len(b.entries)
	b.entries = append(b.entries, r.entry...)
	head := b.entries[start:]
	counters = append(counters, head[l.counters:l.counters+countersSize]...)
	clear(head[l.counters : l.counters+countersSize])
	putNumber(head[l.nextOffset:], 2, uint32(r.size()))
	if r.target.kind != targetOther {
		putNumber(head[l.targetOffset:], 2, uint32(len(r.entry)))
		verdict := r.target.verdict
		switch r.target.kind {
		case targetNone:
			verdict = int32(start + r.size())
		case targetJump:
			verdict = int32(begins[r.target.chain])
		}
		var data [4]byte
		putNumber(data[:], 4, uint32(verdict))
		b.entries = appendExtension(b.entries, "", 0, data[:], standardSize-extHeader)
	}
	b.number++
	return counters
}

// end appends an entry that begins a chain, or ends the table.
func (b *blob) end(l *layout, name string, counters []byte) []byte {
	start := len(b.entries)
	b.entries = append(b.entries, make([]byte, l.header)...)
	putNumber(b.entries[start+l.targetOffset:], 2, uint32(l.header))
	putNumber(b.entries[start+l.nextOffset:], 2, uint32(l.header+errorSize))
	b.entries = appendExtension(b.entries, errorTarget, 0, []byte(name), errorSize-extHeader)
	b.number++
	return append(counters, make([]byte, countersSize)...)
}
