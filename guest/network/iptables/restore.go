package iptables

import (
	"strconv"
	"strings"
)

// SyntaxError says what is wrong with a text, and in which line.
type SyntaxError struct {
	Line   int
	Reason string
}

func (e *SyntaxError) Error() string { return "line " + strconv.Itoa(e.Line) + ": " + e.Reason }

// maxRules bounds the rules of a text: they are all in memory at once, in the
// text's form and in the kernel's.
const maxRules = 32 << 10

// parser reads a text.
type parser struct {
	family Family
	line   int
	tables []*table
	table  *table // the one that is open
	rules  int
	// used has the extensions that the text asks for, as the option, the
	// revision's byte, and the name, with the line of the first use.
	used map[string]int
}

// parse reads a text and checks it as far as that can be done without a kernel.
// Tables are in the order of their COMMITs.
func parse(f Family, text []byte) (*parser, error) {
	p := &parser{family: f, used: map[string]int{}}
	for rest, more := string(text), true; more; {
		var s string
		s, rest, more = cut(rest, "\n")
		p.line++
		if s = strings.TrimSpace(s); s == "" || s[0] == '#' {
			continue
		}
		if strings.IndexByte(s, 0) >= 0 {
			return nil, &SyntaxError{p.line, "there is a zero byte"}
		}
		if err := p.read(s); err != nil {
			return nil, &SyntaxError{p.line, err.Error()}
		}
		if s == "COMMIT" {
			if err := p.tables[len(p.tables)-1].check(); err != nil {
				return nil, err
			}
		}
	}
	if p.table != nil {
		return nil, &SyntaxError{p.line, "COMMIT is missing for the table " + p.table.name}
	}
	return p, nil
}

func (p *parser) read(line string) error {
	switch {
	case p.table == nil && line[0] == '*':
		return p.begin(line[1:])
	case p.table == nil:
		return wrong("", line, "it is outside a table, which begins with *NAME")
	case line == "COMMIT":
		return p.commit()
	case line[0] == '*':
		return wrong("", line, "COMMIT is missing for the table "+p.table.name)
	case line[0] == ':':
		return p.chain(line[1:])
	case line[0] == '[':
		_, _, rest, err := splitCounters(line)
		if err != nil {
			return err
		}
		return p.command(rest)
	}
	return p.command(line)
}

// begin opens a table, empty but for its built-in chains.
func (p *parser) begin(name string) error {
	bits, ok := lookUp(tables, name)
	if !ok || name != strings.ToLower(name) {
		return wrong("table", name, "there is no such table")
	}
	p.table = &table{name: name, family: p.family, names: map[string]*chain{}}
	for hook := range hooks {
		if bits&(1<<hook) != 0 {
			p.table.add(&chain{name: hookName(hook), hook: hook, policy: verdictAccept})
		}
	}
	return nil
}

//go:noinline
func (t *table) add(c *chain) {
	t.chains = append(t.chains, c)
	t.names[c.name] = c
}

func (p *parser) commit() error {
	p.tables = append(p.tables, p.table)
	p.table = nil
	return nil
}

// chain reads ":NAME POLICY [COUNTERS]".
func (p *parser) chain(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 2 && len(fields) != 3 {
		return wrong("", ":"+line, "it is not :CHAIN POLICY [PACKETS:BYTES]")
	}
	if len(fields) == 3 {
		if _, _, rest, err := splitCounters(fields[2]); err != nil || rest != "" || fields[2][0] != '[' {
			return wrong("counters", fields[2], "they are not [PACKETS:BYTES]")
		}
	}
	c := p.table.names[fields[0]]
	if c == nil || c.hook < 0 {
		if fields[1] != "-" {
			return wrong("policy", fields[1], "a chain that is not built in has none, but -")
		}
		return p.create(fields[0])
	}
	if fields[1] == "-" {
		return nil
	}
	return c.setPolicy(fields[1])
}

func (c *chain) setPolicy(policy string) error {
	switch policy {
	case "ACCEPT":
		c.policy = verdictAccept
	case "DROP":
		c.policy = verdictDrop
	default:
		return wrong("policy", policy, "it is neither ACCEPT nor DROP")
	}
	c.stated = true
	return nil
}

func (p *parser) create(name string) error {
	reason := ""
	verdict, _ := lookUp(verdicts, name)
	switch {
	case name == "" || len(name) >= extNameLen:
		reason = "a name has from 1 to 28 bytes"
	case strings.ContainsAny(name[:1], "-!:*#[") || strings.ContainsAny(name, " \t"):
		reason = "it is not a name for a chain"
	case p.table.names[name] != nil:
		reason = "there is one already"
	case name == errorTarget || find(targets, p.family, name) != nil || nameOf(verdicts, verdict) == name:
		reason = "it is the name of a target"
	}
	if reason != "" {
		return wrong("chain", name, reason)
	}
	if p.rules++; p.rules > maxRules {
		return errTooMany
	}
	p.table.add(&chain{name: name, hook: -1, policy: verdictReturn})
	return nil
}

const errTooMany = problem("there are more than 32768 rules and chains")

// command reads a line that changes a chain.
func (p *parser) command(line string) error {
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return problem("there is nothing but counters")
	}
	name, words := words[0], words[1:]
	switch name {
	case "-A", "--append", "-I", "--insert":
		return p.add(name, words)
	case "-N", "--new-chain", "--new":
		if len(words) != 1 {
			return wrong(name, "", "it takes the name of a chain")
		}
		return p.create(words[0])
	case "-P", "--policy":
		if len(words) != 2 {
			return wrong(name, "", "it takes a chain and a policy")
		}
		c, err := p.named(words[0])
		if err != nil {
			return err
		}
		if c.hook < 0 {
			return wrong("chain", words[0], "it is not built in and has no policy")
		}
		return c.setPolicy(words[1])
	case "-F", "--flush":
		return p.flush(words)
	}
	return wrong("", name, "a line begins with -A, -I, -N, -P, -F, #, :CHAIN or COMMIT")
}

//go:noinline
func (p *parser) named(name string) (*chain, error) {
	c := p.table.names[name]
	if c == nil {
		return nil, wrong("chain", name, "there is no such chain")
	}
	return c, nil
}

// flush removes the rules of a chain or of all.
func (p *parser) flush(words []string) error {
	if len(words) > 1 {
		return wrong(words[1], "", "-F takes one chain at most")
	}
	for _, c := range p.table.chains {
		if len(words) == 0 || words[0] == c.name {
			c.rules = nil
		}
	}
	if len(words) == 1 {
		_, err := p.named(words[0])
		return err
	}
	return nil
}

// add appends or inserts a rule.
func (p *parser) add(command string, words []string) error {
	if len(words) == 0 {
		return wrong(command, "", "it takes the name of a chain")
	}
	c, err := p.named(words[0])
	if err != nil {
		return err
	}
	words = words[1:]
	at := len(c.rules)
	if command == "-I" || command == "--insert" {
		at = 0
		if len(words) > 0 {
			if n, ok := parseNumber(words[0], maxRules); ok {
				words = words[1:]
				at = int(n) - 1
			}
		}
		if at < 0 || at > len(c.rules) {
			return wrong(command, c.name, "the chain has no place "+strconv.Itoa(at+1))
		}
	}
	r := &ruleReader{family: p.family, table: p.table, line: p.line, words: words}
	if err := r.read(); err != nil {
		return err
	}
	if r.skip {
		return nil
	}
	rules, err := r.build()
	if err != nil {
		return err
	}
	if p.rules += len(rules); p.rules > maxRules {
		return errTooMany
	}
	c.rules = append(c.rules, rules...)
	copy(c.rules[at+len(rules):], c.rules[at:])
	copy(c.rules[at:], rules)
	for _, in := range r.all() {
		use := "-m" + string([]byte{in.revision}) + in.name
		if in.target {
			use = "-j" + use[2:]
		}
		if p.used[use] == 0 {
			p.used[use] = p.line
		}
	}
	return nil
}
