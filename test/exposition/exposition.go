// Package exposition reads Prometheus's text format 0.0.4 strictly: what it takes,
// a scraper does too. It is for tests.
package exposition

import (
	"fmt"
	"strconv"
	"strings"
)

// Family is a metric with all its samples.
type Family struct {
	Type, Help string
	// Samples are the values by what stands between the braces, as `item="x"`.
	Samples map[string]float64
}

// Parse returns the families of a page by name.
func Parse(text string) (map[string]*Family, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	families := make(map[string]*Family)
	current := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if err := parseLine(families, &current, line); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	for name, f := range families {
		if len(f.Samples) == 0 || f.Type == "" || f.Help == "" {
			return nil, fmt.Errorf("family %s is not complete: %+v", name, f)
		}
	}
	return families, nil
}

func parseLine(families map[string]*Family, current *string, line string) error {
	if rest, ok := strings.CutPrefix(line, "# "); ok {
		return parseComment(families, current, rest)
	}
	name, rest := cutName(line)
	labels := ""
	if strings.HasPrefix(rest, "{") {
		var err error
		if labels, rest, err = cutLabels(rest[1:]); err != nil {
			return err
		}
	}
	number, ok := strings.CutPrefix(rest, " ")
	value, err := strconv.ParseFloat(number, 64)
	switch f := families[name]; {
	case !ok || err != nil:
		return fmt.Errorf("its value is %q: %w", number, err)
	case f == nil || name != *current:
		return fmt.Errorf("family %q is not announced above", name)
	case f.Type == "":
		return fmt.Errorf("family %q has no type", name)
	default:
		if _, twice := f.Samples[labels]; twice {
			return fmt.Errorf("the same labels twice")
		}
		f.Samples[labels] = value
	}
	return nil
}

func parseComment(families map[string]*Family, current *string, rest string) error {
	kind, rest, _ := strings.Cut(rest, " ")
	name, text, ok := strings.Cut(rest, " ")
	if valid, left := cutName(name); !ok || text == "" || valid == "" || left != "" {
		return fmt.Errorf("name %q, text %q", name, text)
	}
	switch kind {
	case "HELP":
		if families[name] != nil {
			return fmt.Errorf("a second family of the name")
		}
		*current = name
		families[name] = &Family{Help: text, Samples: make(map[string]float64)}
	case "TYPE":
		f := families[name]
		if f == nil || f.Type != "" || name != *current {
			return fmt.Errorf("a type out of place")
		}
		if text != "counter" && text != "gauge" && text != "histogram" && text != "summary" && text != "untyped" {
			return fmt.Errorf("type %q", text)
		}
		f.Type = text
	default:
		return fmt.Errorf("a comment")
	}
	return nil
}

// cutName returns the name that s begins with, and the rest.
func cutName(s string) (name, rest string) {
	for i, c := range []byte(s) {
		letter := c == '_' || c == ':' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// cutLabels returns what stands before the closing brace, and what after it.
func cutLabels(s string) (labels, rest string, err error) {
	at := s
	for {
		name, value := cutName(at)
		if name == "" || strings.Contains(name, ":") || !strings.HasPrefix(value, `="`) {
			return "", "", fmt.Errorf("a label is wrong at %q", at)
		}
		end := endOfValue(value[2:])
		if end < 0 {
			return "", "", fmt.Errorf("the value of label %s is wrong", name)
		}
		at = value[2+end+1:]
		switch {
		case strings.HasPrefix(at, "}"):
			return s[:len(s)-len(at)], at[1:], nil
		case !strings.HasPrefix(at, ","):
			return "", "", fmt.Errorf("after label %s comes %q", name, at)
		}
		at = at[1:]
	}
}

// endOfValue is where the closing quote is, or -1.
func endOfValue(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i
		case '\\':
			if i++; i == len(s) || !strings.ContainsRune(`\"n`, rune(s[i])) {
				return -1
			}
		}
	}
	return -1
}
