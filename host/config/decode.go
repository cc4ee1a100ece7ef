package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// decoder turns the text of one file into a Config.
type decoder struct {
	host   Host
	source source
	config *Config
	errors Errors
	set    map[string]any // dotted key -> value as the TOML library gave it
}

// The TOML library's time grows with the cube of the depth of inline tables,
// which no key takes, and with the square of the parts of a dotted key.
const (
	maxBraces = 256
	maxLine   = 4096 // bytes; the guest kernel's whole command line has 2048
)

func bounded(name, text string) error {
	if strings.Count(text, "{") > maxBraces {
		return &KeyError{File: name, Reason: fmt.Sprintf("more than %d inline tables", maxBraces)}
	}
	n := 0
	for line := range strings.Lines(text) {
		if n++; len(line) > maxLine {
			return &KeyError{File: name, Line: n, Reason: fmt.Sprintf("line of more than %d bytes", maxLine)}
		}
	}
	return nil
}

// Decode reads the text of a configuration file, called name in errors, for
// the given host. An error is an Errors, or a *KeyError for text that is not
// TOML. It never looks at the file system.
func Decode(name, text string, host Host) (*Config, error) {
	if err := bounded(name, text); err != nil {
		return nil, err
	}
	var top map[string]any
	meta, err := toml.Decode(text, &top)
	if err != nil {
		return nil, syntaxError(name, err)
	}
	d := &decoder{
		host:   host,
		source: source{name: name, text: text, keys: meta.Keys()},
		config: Default(),
		set:    map[string]any{},
	}
	d.config.Path = name
	d.config.source = d.source
	d.tables(top)
	d.crossCheck()

	d.locate()
	if len(d.errors) > 0 {
		return nil, d.errors
	}
	return d.config, nil
}

// maxLocated bounds for how many complaints the line is looked up, which
// costs a pass over the text each.
const maxLocated = 100

// locate puts errors and warnings in the order of the file and fills in lines.
func (d *decoder) locate() {
	order := map[string]int{}
	for i, k := range d.source.keys {
		for n := min(len(k), deepest); n > 0; n-- {
			if s := k[:n].String(); order[s] == 0 {
				order[s] = i + 1
			}
		}
	}
	slices.SortStableFunc(d.errors, func(a, b *KeyError) int { return order[a.Key] - order[b.Key] })
	slices.SortStableFunc(d.config.Warnings, func(a, b Warning) int { return order[a.Key] - order[b.Key] })
	for i, e := range d.errors[:min(len(d.errors), maxLocated)] {
		d.errors[i].Line = d.source.line(e.at)
	}
	if len(d.errors) > 0 {
		return
	}
	for i, w := range d.config.Warnings[:min(len(d.config.Warnings), maxLocated)] {
		d.config.Warnings[i].Line = d.source.line(w.at)
	}
}

func syntaxError(name string, err error) error {
	var p toml.ParseError
	if !errors.As(err, &p) {
		return &KeyError{File: name, Reason: err.Error(), Err: err}
	}
	return &KeyError{File: name, Line: p.Position.Line, Key: p.LastKey, Reason: strings.TrimSpace(p.Message), Err: err}
}

// tables walks the tables of the file.
func (d *decoder) tables(top map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(top)) {
		path := toml.Key{name}
		switch name {
		case "hypervisor":
			d.hypervisors(path, top[name])
		case "agent":
			d.agents(path, top[name])
		case "runtime":
			d.table(path, top[name], append(runtimeKeys(), runtimePending()...), nil)
		case "factory":
			d.table(path, top[name], factoryPending(), nil)
		case "netmon":
			d.table(path, top[name], netmonPending(), nil)
		case "image":
			d.table(path, top[name], imagePending(), nil)
		default:
			d.unknown(path, top[name], []string{"hypervisor", "agent", "runtime", "factory", "netmon", "image"})
		}
	}
}

// hypervisors takes [hypervisor.qemu]; the other drivers' tables are looked
// through for keys nobody knows when qemu is there too, as upstream's
// combined files have it.
func (d *decoder) hypervisors(path toml.Key, value any) {
	names, ok := value.(map[string]any)
	if !ok {
		d.fail(path, value, "must be a table")
		return
	}
	_, haveQEMU := names["qemu"]
	for _, name := range slices.Sorted(maps.Keys(names)) {
		below := join(path, name)
		switch {
		case name == "qemu":
			d.table(below, names[name], append(hypervisorKeys(), hypervisorPending()...), nil)
		case !slices.Contains(drivers(), name):
			d.unknown(below, names[name], drivers())
		case !haveQEMU:
			d.fail(below, nil, "this hypervisor is not implemented yet; only [hypervisor.qemu] is")
		default:
			d.unused(below, names[name])
		}
	}
}

// unused looks for unknown keys in the table of a driver that is not used.
func (d *decoder) unused(path toml.Key, value any) {
	keys, ok := value.(map[string]any)
	if !ok {
		d.fail(path, value, "must be a table")
		return
	}
	known := slices.Concat(names(hypervisorKeys()), names(hypervisorPending()), names(otherDriverKeys()))
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(known, name) {
			d.unknown(join(path, name), keys[name], known)
		}
	}
}

func (d *decoder) agents(path toml.Key, value any) {
	names, ok := value.(map[string]any)
	if !ok {
		d.fail(path, value, "must be a table")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name != "kata" {
			d.unknown(join(path, name), names[name], []string{"kata"})
			continue
		}
		d.table(join(path, name), names[name], append(agentKeys(), agentPending()...),
			map[string][]key{"mem_agent": memAgentKeys()})
	}
}

// table takes the keys of one table; below are the tables it may hold.
func (d *decoder) table(path toml.Key, value any, keys []key, below map[string][]key) {
	values, ok := value.(map[string]any)
	if !ok {
		d.fail(path, value, "must be a table")
		return
	}
	byName := make(map[string]key, len(keys))
	for _, k := range keys {
		byName[k.name] = k
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := join(path, name)
		if inner, ok := below[name]; ok {
			d.table(at, values[name], inner, nil)
			continue
		}
		k, ok := byName[name]
		if !ok {
			d.unknown(at, values[name], slices.Concat(names(keys), slices.Collect(maps.Keys(below))))
			continue
		}
		d.take(at, k, values[name])
	}
}

func (d *decoder) take(at toml.Key, k key, raw any) {
	value, ok := k.kind.convert(raw)
	if !ok {
		d.fail(at, raw, fmt.Sprintf("must be %s, not %s", k.kind, typeName(raw)))
		return
	}
	d.set[at.String()] = raw
	err := k.apply(d, value)
	var n notice
	switch {
	case errors.As(err, &n):
		d.config.Warnings = append(d.config.Warnings, Warning{
			File: d.source.name, Key: at.String(), Value: format(raw), Reason: string(n), at: at,
		})
	case err != nil:
		d.fail(at, raw, err.Error())
	}
}

// crossCheck finds values that are impossible together.
func (d *decoder) crossCheck() {
	m := &d.config.Machine
	if m.Image != "" && m.Initrd != "" {
		at := toml.Key{"hypervisor", "qemu", "initrd"}
		d.fail(at, d.set[at.String()], "cannot be given together with image")
	}
	maxKey := toml.Key{"hypervisor", "qemu", "default_maxvcpus"}
	if most, ok := d.set[maxKey.String()].(int64); ok && most > 0 && most < int64(m.VCPUs) {
		d.fail(maxKey, most, fmt.Sprintf("must not be below default_vcpus, which is %d", m.VCPUs))
	}
	netns := toml.Key{"runtime", "disable_new_netns"}
	if d.set[netns.String()] == true && d.set["runtime.internetworking_model"] != "none" {
		d.fail(netns, true, "works only with internetworking_model = \"none\"")
	}
	template := toml.Key{"factory", "enable_template"}
	if d.set[template.String()] == true && m.Image != "" {
		d.fail(template, true, "needs an initrd, and image is set")
	}
}

func (d *decoder) unknown(at toml.Key, value any, known []string) {
	what := "unknown key"
	if _, ok := value.(map[string]any); ok {
		what, value = "unknown table", nil
	}
	if near := nearest(at[len(at)-1], known); near != "" {
		what += ", did you mean " + near + "?"
	}
	d.fail(at, value, what)
}

func (d *decoder) fail(at toml.Key, value any, reason string) {
	e := &KeyError{File: d.source.name, Key: at.String(), Reason: reason, at: at}
	if value != nil {
		e.Value = format(value)
	}
	d.errors = append(d.errors, e)
}

func names(keys []key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.name
	}
	return out
}

func join(path toml.Key, name string) toml.Key {
	return append(slices.Clone(path), name)
}

// typeName names the TOML type of a decoded value.
func typeName(value any) string {
	switch value.(type) {
	case bool:
		return "a boolean"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	default:
		return "a date or time"
	}
}

// format prints a value as it could stand in the file, on one line and not
// longer than a line should be.
func format(value any) string {
	const most = 120
	var s string
	switch v := value.(type) {
	case string:
		s = strconv.Quote(v)
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v {
			parts = append(parts, format(e))
		}
		s = "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		s = "{…}"
	case []map[string]any:
		s = "[{…}]"
	default:
		s = fmt.Sprint(v)
	}
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}
