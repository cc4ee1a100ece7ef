package command

import (
	"fmt"
	"slices"
	"strings"
)

// list returns all commands, a line each.
func (p *Parser) list() string {
	var b strings.Builder
	for _, name := range p.names {
		fmt.Fprintf(&b, "%-30s  %s\n", name, p.about[name])
	}
	for _, built := range p.builtins {
		fmt.Fprintf(&b, "%-30s  %s\n", built.name, built.about)
	}
	return b.String()
}

// help returns the overview.
func (p *Parser) help() string {
	var b strings.Builder
	b.WriteString(`A command is a call of the agent with its arguments, or one of these:

`)
	for _, built := range p.builtins {
		fmt.Fprintf(&b, "  %-20s  %s\n", built.usage, built.about)
	}
	b.WriteString(`
Arguments of a call:

  key=value     a field of the request, by its path where it is nested:
                GetGuestDetails mem_block_size=true
                CreateContainer cid=web OCI.Root.Readonly=true
                A list takes a pair for each element, or JSON: dns=192.0.2.1 dns=192.0.2.2
                Bytes are the text itself, file:///path or base64://…
  json://{…}    the request, or a part of it, in protobuf's JSON
  /path         a file with such JSON; also ./path, name.json, file:///path

Short keys: cid and sid are container_id and sandbox_id, and stay in force for
the commands that follow; spec=file:///…/config.json and args="sh -c …" describe
a process; signal takes names.

Calls:

`)
	b.WriteString(columns(p.names))
	b.WriteString("\nhelp CALL shows what a call takes.\n")
	return b.String()
}

// columns sets names in columns of a terminal of 80.
func columns(names []string) string {
	const width, perLine = 31, 2
	var b strings.Builder
	for chunk := range slices.Chunk(names, perLine) {
		line := ""
		for _, name := range chunk {
			line += fmt.Sprintf("  %-*s", width, name)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// helpOn describes one command.
func (p *Parser) helpOn(name string) (string, error) {
	for _, built := range p.builtins {
		if built.name == name {
			return fmt.Sprintf("%s\n  %s\n", built.usage, built.about), nil
		}
	}
	m, ok := p.methods[name]
	if !ok {
		return "", p.unknown(name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %s\n", m.name, m.service(), p.about[m.name])
	fields := m.desc.Request.Fields()
	if len(fields) == 0 {
		b.WriteString("  it takes no arguments\n")
	}
	var lines []pair
	for _, f := range fields {
		lines = append(lines, pair{f.Name, f.Type})
		for _, inner := range m.desc.Request.FieldsAt(f.Name) {
			lines = append(lines, pair{"  " + f.Name + "." + inner.Name, inner.Type})
		}
	}
	lines = append(lines, m.notes()...)
	width := 0
	for _, line := range lines {
		width = max(width, len(line.key))
	}
	for _, line := range lines {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, line.key, line.value)
	}
	return b.String(), nil
}

// notes describe the keys of a call that are no fields.
func (m *method) notes() []pair {
	var notes []pair
	if m.hasField(fieldContainer) {
		notes = append(notes, pair{"cid", "short for container_id"})
	}
	if m.hasField(fieldSandbox) {
		notes = append(notes, pair{"sid", "short for sandbox_id"})
	}
	if m.takes(keySpec) {
		notes = append(notes, pair{keySpec, "OCI config.json to take the rest from: file:///… or a path"})
	}
	if m.takes(keyArgs) {
		notes = append(notes, pair{keyArgs, "command line of the process, in quotes"})
	}
	return notes
}
