package iptables

import (
	"bytes"
	"strconv"
)

// table prints a table as iptables-save(8) does, but for its comments.
func (p *printer) table(t *table) error {
	p.byte('*')
	p.string(t.name)
	p.byte('\n')
	for _, c := range t.chains {
		if err := p.chain(c); err != nil {
			return err
		}
	}
	for _, c := range t.chains {
		for i, r := range c.rules {
			p.string("-A ")
			p.string(c.name)
			if err := p.rule(r); err != nil {
				return place(t.name, c.name, i, err)
			}
			p.byte('\n')
		}
	}
	p.string("COMMIT\n")
	return nil
}

// place says where in the kernel's tables something is wrong.
func place(table, chain string, rule int, err error) error {
	return problem("table " + table + ", chain " + chain + ", rule " + strconv.Itoa(rule+1) + ": " + err.Error())
}

func (p *printer) chain(c *chain) error {
	p.byte(':')
	p.string(c.name)
	counters := c.counters[:]
	switch {
	case c.hook < 0:
		p.string(" - [")
		counters = make([]byte, countersSize)
	case c.policy == verdictDrop:
		p.string(" DROP [")
	case c.policy == verdictAccept:
		p.string(" ACCEPT [")
	default:
		return wrong("chain", c.name, "its policy is no policy")
	}
	p.decimal(byteOrder.Uint64(counters))
	p.byte(':')
	p.decimal(byteOrder.Uint64(counters[8:]))
	p.string("]\n")
	return nil
}

func (p *printer) rule(r *rule) error {
	l := p.family.layout()
	e := r.entry
	flags, inverted := e[l.flags], e[l.inverted]
	if flags&^(l.flagFrag|l.flagProto|l.flagGoto) != 0 || inverted&^(invIn|invOut|invSrc|invDst|invFrag|invProto) != 0 {
		return problem("it has flags that have no text")
	}
	p.network("-s ", e, e[2*l.addr:], inverted&invSrc != 0)
	p.network("-d ", e[l.addr:], e[3*l.addr:], inverted&invDst != 0)
	p.device("-i ", e[l.ifaces:], inverted&invIn != 0)
	p.device("-o ", e[l.ifaces+ifNameLen:], inverted&invOut != 0)
	if protocol := number(e[l.proto:], 2); protocol != 0 {
		p.not(inverted&invProto != 0)
		p.string("-p ")
		p.string(protocolName(protocol))
	}
	if flags&l.flagFrag != 0 {
		p.not(inverted&invFrag != 0)
		p.string("-f")
	}
	end := len(e)
	if r.target.kind == targetOther {
		end = int(number(e[l.targetOffset:], 2))
	}
	for at := l.header; at < end; {
		size := 0
		if end-at >= extHeader {
			size = int(number(e[at:], 2))
		}
		if size < extHeader || size > end-at {
			return errCorrupt
		}
		p.extension(" -m ", matches, e[at:at+size])
		at += size
	}
	return p.target(r, e[end:], flags&l.flagGoto != 0)
}

func (p *printer) target(r *rule, other []byte, isGoto bool) error {
	switch r.target.kind {
	case targetVerdict:
		name := nameOf(verdicts, uint32(-r.target.verdict))
		if name == "" {
			return problem("it has a verdict that has no text")
		}
		p.string(" -j ")
		p.string(name)
	case targetJump:
		if isGoto {
			p.string(" -g ")
		} else {
			p.string(" -j ")
		}
		p.string(r.target.chain.name)
	case targetOther:
		p.extension(" -j ", targets, other)
	}
	return nil
}

func (p *printer) network(option string, addr, mask []byte, not bool) {
	size := p.family.layout().addr
	var zero [16]byte
	if addr, mask = addr[:size], mask[:size]; not || !bytes.Equal(addr, zero[:size]) || !bytes.Equal(mask, zero[:size]) {
		p.not(not)
		p.string(option)
		p.address(addr)
		p.mask(mask)
	}
}

// device prints the device at the start of names, whose mask follows two names
// further.
func (p *printer) device(option string, names []byte, not bool) {
	name, mask := names[:ifNameLen], names[2*ifNameLen:3*ifNameLen]
	if mask[0] == 0 {
		return
	}
	p.not(not)
	p.string(option)
	for i := range name {
		if mask[i] == 0 {
			if name[i-1] != 0 {
				p.byte('+')
			}
			return
		}
		if name[i] != 0 {
			p.byte(name[i])
		}
	}
}

// extension prints a match or a target, which begins with its header. To be
// sure that the text is the truth it is read again: if what comes out is not
// what was there, the bytes are printed instead.
func (p *printer) extension(option string, list []extension, raw []byte) {
	name, revision, data := text(raw[2:2+extNameLen]), raw[extHeader-1], raw[extHeader:]
	p.string(option)
	start := len(p.text)
	if e := recognize(list, p.family, name, revision, data); e != nil {
		p.string(e.name)
		p.options(e, data)
		if e.means(p.family, string(p.text[start:]), data) {
			return
		}
		p.text = p.text[:start]
	}
	p.string(name)
	p.string(" " + rawOption + " ")
	p.decimal(uint64(revision))
	p.byte(':')
	const digits = "0123456789abcdef"
	for _, v := range data {
		p.byte(digits[v>>4])
		p.byte(digits[v&15])
	}
}

// means says whether text, a name with options, is read as data.
func (e *extension) means(f Family, text string, data []byte) bool {
	words, err := splitWords(text)
	if err != nil || len(words) == 0 {
		return false
	}
	in := newInstance(e, false)
	r := &ruleReader{family: f, words: words[1:], matches: []*instance{in}}
	for len(r.words) > 0 {
		name := r.words[0]
		r.words = r.words[1:]
		not := name == "!"
		if not && len(r.words) > 0 {
			name, r.words = r.words[0], r.words[1:]
		}
		if r.extensionOption(name, not) != nil {
			return false
		}
	}
	user := e.userSize()
	return bytes.Equal(e.significant(f, in.data[:user]), e.significant(f, data[:user]))
}

// significant returns data without what has no meaning: the end of masks that
// IPv6 addresses would need.
//
//go:noinline
func (e *extension) significant(f Family, data []byte) []byte {
	if f == IPv6 {
		return data
	}
	data = bytes.Clone(data)
	for i := range e.options {
		if o := &e.options[i]; o.kind == network {
			clear(data[o.also:][4:16])
		}
	}
	return data
}
