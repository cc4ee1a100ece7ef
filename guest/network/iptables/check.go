package iptables

import "strings"

// complete checks what can be said about a match or a target when all its
// options are known.
func (r *ruleReader) complete(in *instance) error {
	if in.extension == nil {
		return nil
	}
	if in.any && in.seen == 0 {
		return wrong(in.extension.name, "", "it has no options")
	}
	for i := range in.options {
		o := &in.options[i]
		if o.show == required && in.seen&(1<<i) == 0 && (o.when.size == 0 || o.when.is(in.data)) {
			return wrong(in.extension.name, "", o.first()+" is missing")
		}
	}
	return r.suits(in)
}

// suits checks what the kernel would refuse without saying why.
func (r *ruleReader) suits(in *instance) error {
	if err := r.needProtocol(in.extension.name, in.protocols); err != nil {
		return err
	}
	for i := range in.options {
		switch o := &in.options[i]; o.kind {
		case natCompat, natRange, natRange2, natPorts4, natPorts6:
			if o.loadNAT(in.data).flags&natPorts != 0 {
				return r.needProtocol(o.name+" with a port", withPorts+"\x01\x3a")
			}
		}
	}
	switch in.extension.name {
	case "REJECT":
		if o := &in.options[0]; nameOf(o.words, number(in.data, 4)) == "tcp-reset" {
			return r.needProtocol(o.name+" tcp-reset", "\x06")
		}
	case "TCPMSS":
		for _, m := range r.matches {
			if m.name == "tcp" && m.data[10]&2 != 0 && m.data[11]&4 == 0 { // SYN is to be set
				return nil
			}
		}
		return wrong(in.extension.name, "", "it needs --syn, or --tcp-flags with SYN set")
	}
	return nil
}

// needProtocol checks that -p names one of some protocols, if any.
func (r *ruleReader) needProtocol(what, protocols string) error {
	inverted := r.header[r.family.layout().inverted]&invProto != 0
	if protocols == "" || !inverted && strings.IndexByte(protocols, byte(r.protocol)) >= 0 {
		return nil
	}
	names := ""
	for _, p := range []byte(protocols) {
		names += " or " + protocolName(uint32(p))
	}
	return wrong(what, "", "it needs -p"+names[len(" or"):])
}

// narrow returns an extension of the rule that is not for all hooks.
func (r *ruleReader) narrow() *extension {
	for _, in := range r.all() {
		if in.extension != nil && in.hooks != 0 {
			return in.extension
		}
	}
	return nil
}

// check checks what can be said only of the whole table: that no chain leads to
// itself, and that extensions are reached only from the hooks they are for.
func (t *table) check() error {
	for _, c := range t.chains {
		if c.hook < 0 {
			continue
		}
		if err := c.follow(1 << c.hook); err != nil {
			return err
		}
	}
	for _, c := range t.chains {
		for _, r := range c.rules {
			if r.narrow == nil || c.reached&^uint32(r.narrow.hooks) == 0 {
				continue
			}
			for hook := range hooks {
				if (c.reached&^uint32(r.narrow.hooks))&(1<<hook) != 0 {
					return &SyntaxError{r.line, r.narrow.name + " has no place in the chain " + hookName(hook) + " or what it leads to"}
				}
			}
		}
	}
	return nil
}

// follow marks all chains that a hook leads to.
func (c *chain) follow(hook uint32) error {
	c.reached |= hook
	c.found |= hook
	for _, r := range c.rules {
		if r.target.kind != targetJump {
			continue
		}
		to := r.target.chain
		if to.found&hook != 0 {
			return &SyntaxError{r.line, "the chain " + quote(to.name) + " leads to itself"}
		}
		if to.reached&hook != 0 {
			continue
		}
		if err := to.follow(hook); err != nil {
			return err
		}
	}
	c.found &^= hook
	return nil
}
