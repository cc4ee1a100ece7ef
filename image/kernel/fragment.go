package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// option is one line of a configuration: the value is "" for "is not set".
type option struct {
	name, value string
	line        int
}

var optionLine = regexp.MustCompile(`^(?:(CONFIG_[A-Za-z0-9_]+)=(.+)|# (CONFIG_[A-Za-z0-9_]+) is not set)$`)

// parseFragment reads a fragment; a line that is neither an option nor a
// comment, and an option that is given twice, are errors.
func parseFragment(text []byte) ([]option, error) {
	var out []option
	seen := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		m := optionLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			o := option{name: m[1] + m[3], value: m[2], line: n}
			if first := seen[o.name]; first > 0 {
				return nil, fmt.Errorf("kernel config fragment, line %d: %s is given in line %d already", n, o.name, first)
			}
			seen[o.name] = n
			out = append(out, o)
		case line == "" || strings.HasPrefix(line, "#"):
		default:
			return nil, fmt.Errorf("kernel config fragment, line %d: %q is neither an option nor a comment", n, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("kernel config fragment: %w", err)
	}
	return out, nil
}

// verify compares the configuration that make has written with what was
// wanted, and names every option that is otherwise.
func verify(wanted []option, config []byte) error {
	have := map[string]string{}
	for line := range bytes.Lines(config) {
		if m := optionLine.FindStringSubmatch(strings.TrimSpace(string(line))); m != nil {
			have[m[1]+m[3]] = m[2]
		}
	}
	var wrong []string
	for _, o := range wanted {
		got, known := have[o.name]
		if o.value == got || o.value == "n" && got == "" {
			continue
		}
		is := "is " + got
		switch {
		case !known:
			is = "is unknown to this kernel or lacks a dependency"
		case got == "":
			is = "is not set"
		}
		want := o.value
		if want == "" {
			want = "n"
		}
		wrong = append(wrong, fmt.Sprintf("line %d: %s=%s %s", o.line, o.name, want, is))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%d options of the kernel config fragment did not take effect: %s", len(wrong), strings.Join(wrong, "; "))
}
