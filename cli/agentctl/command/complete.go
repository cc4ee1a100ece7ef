package command

import (
	"slices"
	"strings"
)

// Complete returns what the word at the end of a beginning of a line can
// become, sorted, and where that word begins. A candidate that ends in = or .
// wants more behind it.
func (p *Parser) Complete(line string) (start int, candidates []string) {
	start = strings.LastIndexAny(line, " \t") + 1
	word, before := line[start:], strings.Fields(line[:start])
	// What counts is the call, not the repeat or help in front of it.
	if len(before) >= 2 && before[0] == "repeat" {
		before = before[2:]
	} else if len(before) == 1 && before[0] == "repeat" {
		return start, nil
	}
	var all []string
	switch {
	case len(before) == 0:
		all = p.all()
	case before[0] == "help":
		if len(before) == 1 {
			all = p.all()
		}
	case p.methods[before[0]] != nil:
		all = p.methods[before[0]].completions(word)
	}
	for _, name := range all {
		if strings.HasPrefix(name, word) {
			candidates = append(candidates, name)
		}
	}
	slices.Sort(candidates)
	return start, slices.Compact(candidates)
}

// completions returns what can begin with word as an argument.
func (m *method) completions(word string) []string {
	if strings.HasPrefix(word, "signal=") && m.hasField("signal") {
		var all []string
		for _, name := range []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP"} {
			all = append(all, "signal=SIG"+name)
		}
		return all
	}
	path, fields := "", m.desc.Request.Fields()
	all := []string{jsonPrefix}
	if dot := strings.LastIndexByte(word, '.'); dot >= 0 {
		path, fields, all = word[:dot+1], m.desc.Request.FieldsAt(word[:dot]), nil
	}
	for _, f := range fields {
		all = append(all, path+f.Name+"=")
		if f.Message {
			all = append(all, path+f.Name+".")
		}
	}
	if path == "" {
		for _, note := range m.notes() {
			all = append(all, note.key+"=")
		}
	}
	return all
}
