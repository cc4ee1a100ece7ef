package iptables

import "strings"

// instance is a match or a target of a rule that is being read.
type instance struct {
	*extension // nil for one that is given as it is in the kernel
	name       string
	revision   uint8
	target     bool
	data       []byte
	seen       uint32 // the options that were given
}

// network is an address with its mask.
type ipNetwork struct{ addr, mask [16]byte }

// ruleReader reads the words of one rule.
type ruleReader struct {
	family Family
	table  *table
	line   int

	words    []string // those still to be read
	header   []byte   // of the entry, but for addresses
	src, dst []ipNetwork
	protocol uint32
	given    uint32 // the general options that were given
	matches  []*instance
	jump     target
	other    *instance // the target, if it is an extension
	skip     bool      // the rule is for the other family
}

// next returns the value of an option.
func (r *ruleReader) next(option string) (string, error) {
	if len(r.words) == 0 {
		return "", wrong(option, "", "its value is missing")
	}
	value := r.words[0]
	r.words = r.words[1:]
	return value, nil
}

// The options of every rule, as generalOptions numbers them.
const (
	optSource = iota
	optDestination
	optIn
	optOut
	optProtocol
	optFragment
	optMatch
	optJump
	optGoto
	optCounters
	optIPv4
	optIPv6
)

const generalOptions = "-s=0 --source=0 --src=0 -d=1 --destination=1 --dst=1 -i=2 --in-interface=2 " +
	"-o=3 --out-interface=3 -p=4 --protocol=4 --proto=4 -f=5 --fragment=5 -m=6 --match=6 -j=7 --jump=7 " +
	"-g=8 --goto=8 -c=9 --set-counters=9 -4=10 --ipv4=10 -6=11 --ipv6=11"

// read reads all words of the rule.
func (r *ruleReader) read() error {
	r.header = make([]byte, r.family.layout().header)
	for len(r.words) > 0 {
		name := r.words[0]
		r.words = r.words[1:]
		not := name == "!"
		if not {
			var err error
			if name, err = r.next("!"); err != nil {
				return err
			}
		}
		if err := r.option(name, not); err != nil {
			return err
		}
	}
	for _, in := range r.all() {
		if err := r.complete(in); err != nil {
			return err
		}
	}
	return nil
}

// all returns the matches and the target, if it is an extension.
//
//go:noinline
func (r *ruleReader) all() []*instance {
	if r.other == nil {
		return r.matches
	}
	return append(r.matches[:len(r.matches):len(r.matches)], r.other)
}

func (r *ruleReader) option(name string, not bool) error {
	option, ok := lookUp(generalOptions, name)
	if !ok || name != strings.ToLower(name) {
		return r.extensionOption(name, not)
	}
	if r.given&(1<<option) != 0 && option != optMatch {
		return wrong(name, "", "it is there twice")
	}
	r.given |= 1 << option
	return r.general(option, name, not)
}

func (r *ruleReader) general(option uint32, name string, not bool) error {
	switch option {
	case optFragment:
		return r.fragment(not)
	case optIPv4, optIPv6:
		r.skip = r.skip || (option == optIPv4) != (r.family == IPv4)
		return nil
	}
	value, err := r.next(name)
	if err != nil {
		return err
	}
	if not && option >= optMatch {
		return wrong(name, "", "it cannot be negated")
	}
	l := r.family.layout()
	switch option {
	case optSource:
		return r.addresses(&r.src, name, value, not, invSrc)
	case optDestination:
		return r.addresses(&r.dst, name, value, not, invDst)
	case optIn:
		return r.device(name, value, l.ifaces, not, invIn)
	case optOut:
		return r.device(name, value, l.ifaces+ifNameLen, not, invOut)
	case optProtocol:
		return r.setProtocol(name, value, not)
	case optMatch:
		return r.match(value)
	case optJump, optGoto:
		if r.jump.kind != targetNone {
			return wrong(name, value, "there is a target already")
		}
		return r.setTarget(name, value, option == optGoto)
	}
	second, err := r.next(name)
	if err != nil {
		return err
	}
	packets, bytes, err := parseCounters(value + ":" + second)
	if err == nil {
		byteOrder.PutUint64(r.header[l.counters:], packets)
		byteOrder.PutUint64(r.header[l.counters+8:], bytes)
	}
	return err
}

//go:noinline
func (r *ruleReader) invert(flag byte, not bool) {
	if not {
		r.header[r.family.layout().inverted] |= flag
	}
}

// maxAddresses bounds the rules that one line stands for.
const maxAddresses = 256

func (r *ruleReader) addresses(list *[]ipNetwork, name, value string, not bool, flag byte) error {
	if not && strings.IndexByte(value, ',') >= 0 {
		return wrong(name, value, "several addresses cannot be negated")
	}
	for more := true; more; {
		var n ipNetwork
		var one string
		one, value, more = cut(value, ",")
		if !parseNetwork(r.family, n.addr[:], n.mask[:], one) {
			return wrong(name, one, "it is not an address")
		}
		*list = append(*list, n)
		if max(1, len(r.src))*max(1, len(r.dst)) > maxAddresses {
			return wrong(name, "", "the line stands for too many rules")
		}
	}
	r.invert(flag, not)
	return nil
}

func (r *ruleReader) device(name, value string, at int, not bool, flag byte) error {
	if value == "" || len(value) >= ifNameLen || strings.ContainsAny(value, "/ \t!") {
		return wrong(name, value, "it is not the name of a network device")
	}
	copy(r.header[at:], value)
	length := len(value) + 1
	if strings.HasSuffix(value, "+") {
		length = len(value) - 1 // all names that begin so
	}
	for i := range length {
		r.header[at+2*ifNameLen+i] = 0xff
	}
	r.invert(flag, not)
	return nil
}

func (r *ruleReader) setProtocol(name, value string, not bool) error {
	p, ok := protocolNumber(value)
	if !ok {
		return wrong(name, value, "it is not a protocol")
	}
	if p == 0 && not {
		return wrong(name, value, "no packet has no protocol")
	}
	l := r.family.layout()
	putNumber(r.header[l.proto:], 2, p)
	if p != 0 {
		r.header[l.flags] |= l.flagProto
	}
	r.protocol = p
	r.invert(invProto, not)
	return nil
}

func (r *ruleReader) fragment(not bool) error {
	l := r.family.layout()
	if l.flagFrag == 0 {
		return wrong("-f", "", "it is for IPv4 only")
	}
	r.header[l.flags] |= l.flagFrag
	r.invert(invFrag, not)
	return nil
}

// rawOption gives a match or a target as it is in the kernel:
// REVISION:HEXADECIMAL. It is ours; the tools of iptables refuse it.
const rawOption = "--kata-raw"

func (r *ruleReader) match(name string) error {
	if raw, err := r.raw(name, false); raw != nil || err != nil {
		r.matches = append(r.matches, raw)
		return err
	}
	if name == "icmpv6" || name == "ipv6-icmp" {
		name = "icmp6"
	}
	e := find(matches, r.family, name)
	if e == nil {
		return wrong("-m", name, "there is no such match")
	}
	r.matches = append(r.matches, newInstance(e, false))
	return nil
}

//go:noinline
func newInstance(e *extension, target bool) *instance {
	i := &instance{extension: e, name: e.kernelName(), revision: e.revision, target: target, data: make([]byte, e.size)}
	e.fill(i.data)
	return i
}

// raw returns the instance that rawOption describes, if it is the next word.
func (r *ruleReader) raw(name string, target bool) (*instance, error) {
	if len(r.words) == 0 || r.words[0] != rawOption {
		return nil, nil
	}
	r.words = r.words[1:]
	value, err := r.next(rawOption)
	if err != nil {
		return nil, err
	}
	revision, digits, two := cut(value, ":")
	n, ok := parseNumber(revision, 255)
	data, valid := parseHex(digits)
	if !two || !ok || !valid || len(data)%align != 0 || len(data) > maxRaw {
		return nil, wrong(rawOption, value, "it is not REVISION:BYTES")
	}
	if name == "" || len(name) >= extNameLen || name == errorTarget {
		return nil, wrong(rawOption, name, "it is not a name")
	}
	return &instance{name: name, revision: uint8(n), target: target, data: data}, nil
}

// maxRaw is more than any structure of the kernel's has.
const maxRaw = 4096

func parseHex(s string) ([]byte, bool) {
	out := make([]byte, len(s)/2)
	for i := range out {
		n, ok := parseNumber("0x"+s[2*i:2*i+2], 0xff)
		if !ok {
			return nil, false
		}
		out[i] = byte(n)
	}
	return out, len(s)%2 == 0
}

func (r *ruleReader) setTarget(name, value string, isGoto bool) error {
	if raw, err := r.raw(value, true); raw != nil || err != nil {
		r.other, r.jump.kind = raw, targetOther
		return err
	}
	if v, _ := lookUp(verdicts, value); !isGoto && nameOf(verdicts, v) == value {
		r.jump = target{kind: targetVerdict, verdict: -int32(v)}
		return nil
	}
	if c := r.table.names[value]; c != nil {
		if c.hook >= 0 {
			return wrong(name, value, "it is a built-in chain")
		}
		if isGoto {
			l := r.family.layout()
			r.header[l.flags] |= l.flagGoto
		}
		r.jump = target{kind: targetJump, chain: c}
		return nil
	}
	e := find(targets, r.family, value)
	if e == nil || isGoto {
		return wrong(name, value, "there is no such chain or target")
	}
	if e.table != "" && e.table != r.table.name {
		return wrong(name, value, "it is for the table "+e.table)
	}
	r.other, r.jump.kind = newInstance(e, true), targetOther
	return nil
}

// extensionOption finds whose option it is: of the last match or the target
// that has it, or of the match that -p names.
func (r *ruleReader) extensionOption(name string, not bool) error {
	for i := len(r.matches); i >= 0; i-- {
		in := r.other
		if i < len(r.matches) {
			in = r.matches[i]
		}
		if in == nil || in.extension == nil {
			continue
		}
		if o, at := in.option(name); o != nil {
			return r.set(in, o, at, name, not)
		}
	}
	for i := range matches {
		e := &matches[i]
		if e.family&r.family == 0 || len(e.protocols) != 1 || e.protocols[0] != byte(r.protocol) || e.name == "tcpmss" {
			continue
		}
		if o, at := e.option(name); o != nil {
			in := newInstance(e, false)
			r.matches = append(r.matches, in)
			return r.set(in, o, at, name, not)
		}
	}
	return wrong("", name, "there is no such option here")
}

// set takes an option of a match or target.
func (r *ruleReader) set(in *instance, o *option, at int, name string, not bool) error {
	var value, second string
	var err error
	if o.kind != none && o.kind != copyMarks {
		if value, err = r.next(name); err != nil {
			return err
		}
	}
	if o.kind == tcpFlags {
		if second, err = r.next(name); err != nil {
			return err
		}
	}
	switch {
	case in.seen&(1<<at) != 0:
		return wrong(name, "", "it is there twice")
	case not && o.not.size == 0:
		return wrong(name, "", "it cannot be negated")
	}
	in.seen |= 1 << at
	if in.contradicts(o) {
		return wrong(name, "", "it cannot go with what is before it")
	}
	if err := o.parseValue(r.family, in.data, value, second); err != nil {
		return wrong(name, strings.TrimSpace(value+" "+second), err.Error())
	}
	if o.when.size != 0 {
		o.when.set(in.data)
	}
	if not {
		o.not.set(in.data)
	}
	for i := range in.options {
		if w := in.options[i].when; in.seen&(1<<i) != 0 && w.size != 0 && !w.is(in.data) {
			return wrong(name, "", "it cannot go with "+in.options[i].first())
		}
	}
	return nil
}

// contradicts says whether an option needs another choice than was made.
func (in *instance) contradicts(o *option) bool {
	for i := range in.options {
		before := &in.options[i]
		if in.seen&(1<<i) != 0 && before.kind == choice && o.when.size != 0 && before.at == o.when.at && !o.when.is(in.data) {
			return true
		}
	}
	return false
}

// build makes the rules that the words mean: one for each pair of addresses.
func (r *ruleReader) build() ([]*rule, error) {
	l := r.family.layout()
	body := r.header
	narrow := r.narrow()
	for _, m := range r.matches {
		body = appendExtension(body, m.name, m.revision, m.data, len(m.data))
	}
	putNumber(body[l.targetOffset:], 2, uint32(len(body)))
	size := len(body) + standardSize
	if r.other != nil {
		body = appendExtension(body, r.other.name, r.other.revision, r.other.data, len(r.other.data))
		size = len(body)
	}
	if size > maxEntry {
		return nil, problem("the rule is too long")
	}
	if len(r.src) == 0 {
		r.src = []ipNetwork{{}}
	}
	if len(r.dst) == 0 {
		r.dst = []ipNetwork{{}}
	}
	all := make([]*rule, len(r.src)*len(r.dst))
	for i := range all {
		all[i] = &rule{entry: []byte(string(body)), target: r.jump, line: r.line, narrow: narrow}
		all[i].setAddresses(0, l.addr, &r.src[i/len(r.dst)])
		all[i].setAddresses(l.addr, l.addr, &r.dst[i%len(r.dst)])
	}
	return all, nil
}

// setAddresses sets an address at an offset, and its mask two addresses further.
//
//go:noinline
func (r *rule) setAddresses(at, size int, n *ipNetwork) {
	copy(r.entry[at:], n.addr[:size])
	copy(r.entry[at+2*size:], n.mask[:size])
}
