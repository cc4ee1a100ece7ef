// Package metrics writes what is to be known about the agent's process and the
// machine in Prometheus's text format (exposition format 0.0.4), under upstream's
// names and labels.
//
// Everything is read from /proc when somebody asks and nothing in between. What
// the kernel does not tell is left out. The units are the kernel's, with two
// exceptions that are upstream's: amounts of kata_guest_meminfo are in bytes, and
// kata_agent_total_* and kata_agent_process_* in bytes and seconds.
//
// It has no registry, no histograms, and no labels that one could choose.
package metrics

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// usualSize is what a page takes on a machine with two CPUs and devices.
const usualSize = 24 << 10

// Collector writes pages. The zero value reads /proc.
type Collector struct {
	root    string // in place of /proc
	scrapes atomic.Uint64
}

// Collect returns a page.
func (c *Collector) Collect() []byte {
	p := &page{out: make([]byte, 0, usualSize), root: c.root}
	if p.root == "" {
		p.root = "/proc"
	}
	p.family("kata_agent_scrape_count", "counter", "Metrics scrape count")
	p.number(c.scrapes.Add(1))
	p.agent()
	p.guest()
	return p.out
}

// page is a page in the making.
type page struct {
	out  []byte
	root string

	// The family that samples belong to, which is announced with its first one,
	// and the labels that they have before item.
	name, kind, help string
	announced        bool
	labels           string
}

func (p *page) family(name, kind, help string) {
	p.name, p.kind, p.help, p.announced, p.labels = name, kind, help, false, ""
}

// gauge is family for what most of them are.
func (p *page) gauge(name, help string) { p.family(name, "gauge", help) }

// label gives the samples that follow a label before item.
func (p *page) label(name, value string) {
	if strings.ContainsAny(value, "\\\"\n") {
		value = strings.ReplaceAll(value, `\`, `\\`)
		value = strings.ReplaceAll(value, `"`, `\"`)
		value = strings.ReplaceAll(value, "\n", `\n`)
	}
	p.labels = name + `="` + value + `",`
}

// sample writes a number; without an item it has no labels.
func (p *page) sample(item, number string) {
	if !p.announced {
		p.announced = true
		p.write("# HELP ", p.name, " ", p.help, "\n# TYPE ", p.name, " ", p.kind, "\n")
	}
	if item == "" {
		p.write(p.name, " ", number, "\n")
		return
	}
	p.write(p.name, "{", p.labels, `item="`, item, `"} `, number, "\n")
}

func (p *page) write(words ...string) {
	for _, w := range words {
		p.out = append(p.out, w...)
	}
}

func (p *page) number(n uint64) { p.sample("", strconv.FormatUint(n, 10)) }

// file returns a file below the root, nothing if it cannot be read.
func (p *page) file(name string) string {
	text, err := os.ReadFile(p.root + "/" + name)
	if err != nil {
		return ""
	}
	return string(text)
}

// word returns the first word of a line and what follows it.
func word(line string) (first, rest string) {
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t\n"); i >= 0 {
		return line[:i], line[i:]
	}
	return line, ""
}

// columns writes a sample for each of the items, separated by spaces, with the
// words of a line in their order. Columns that the kernel does not have are 0, as
// upstream's.
func (p *page) columns(items, line string) {
	for items != "" {
		var item, number string
		item, items = word(items)
		number, line = word(line)
		if number == "" {
			number = "0"
		}
		p.sample(item, number)
	}
}

// table writes a sample for each of the items, separated by spaces, from a file of
// "key: value" lines; keys are those of the items in their order. Without such a
// line the value is 0. An amount in kB is multiplied by kB.
func (p *page) table(file, items, keys string, kB uint64) {
	text := p.file(file)
	for items != "" && text != "" {
		var item, key string
		item, items = word(items)
		key, keys = word(keys)
		p.sample(item, lookUp(text, key, kB))
	}
}

func lookUp(text, key string, kB uint64) string {
	for line := range strings.Lines(text) {
		name, rest := word(line)
		if len(name) != len(key)+1 || name[:len(key)] != key {
			continue
		}
		number, rest := word(rest)
		if unit, _ := word(rest); unit == "kB" {
			return strconv.FormatUint(kB*parse(number), 10)
		}
		return number
	}
	return "0"
}

func parse(number string) uint64 {
	n, _ := strconv.ParseUint(number, 10, 64) // the kernel's
	return n
}
