package iptables

import (
	"strings"
)

// splitWords splits a line at blanks. Double quotes hold a word together, and a
// backslash takes what follows it inside them for what it is.
func splitWords(line string) ([]string, error) {
	var words []string
	var word printer
	inWord, inQuotes := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case inQuotes && c == '\\' && i+1 < len(line):
			i++
			word.byte(line[i])
		case c == '"':
			inQuotes = !inQuotes
			inWord = true
		case !inQuotes && isBlank(c):
			if inWord {
				words = append(words, string(word.text))
				word.text = nil
			}
			inWord = false
		default:
			word.byte(c)
			inWord = true
		}
	}
	if inQuotes {
		return nil, problem("a quotation mark is missing")
	}
	if inWord {
		words = append(words, string(word.text))
	}
	return words, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' }

// splitCounters splits [PACKETS:BYTES] from the start of a line.
func splitCounters(line string) (packets, bytes uint64, rest string, err error) {
	inside, rest, closed := cut(strings.TrimPrefix(line, "["), "]")
	if closed {
		if packets, bytes, err = parseCounters(inside); err == nil {
			return packets, bytes, strings.TrimSpace(rest), nil
		}
	}
	return 0, 0, "", problem("the counters are not [PACKETS:BYTES]")
}

func parseCounters(s string) (packets, bytes uint64, err error) {
	p, b, two := cut(s, ":")
	packets, ok := parseNumber(p, 1<<64-1)
	bytes, valid := parseNumber(b, 1<<64-1)
	if !two || !ok || !valid {
		return 0, 0, wrong("counters", s, "they are not PACKETS:BYTES")
	}
	return packets, bytes, nil
}

// cut is strings.Cut.
//
//go:noinline
func cut(s, separator string) (before, after string, found bool) { return strings.Cut(s, separator) }
