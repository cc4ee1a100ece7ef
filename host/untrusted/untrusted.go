// Package untrusted makes text of another trust domain (guest, agent, VMM, file
// server) fit for a status, an event or a line for people: valid UTF-8 (which
// protobuf insists on), without control characters, which move a terminal's cursor
// or forge a line of a log, one line, and bounded.
package untrusted

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxLine is how many bytes of text a status carries: the sentence, and a
	// console's last lines after it.
	MaxLine = 4 << 10
	// MaxID is how many bytes of a name are quoted; containerd's have 76 at most.
	MaxID = 128

	cut = " … "
)

// Line returns the text as one line of at most limit bytes. Lines are joined by
// "; ", what is no character becomes U+FFFD, control and formatting characters
// become spaces. Of a text that is too long the beginning stays, which says what was
// being done, and the end, which says why it failed.
func Line(text string, limit int) string {
	const look = 4 // more than any character takes: bounds the work, not the answer
	if len(text) > look*limit {
		text = text[:look*limit/2] + cut + text[len(text)-look*limit/2:]
	}
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	var lines []string
	for _, line := range strings.FieldsFunc(text, isLineEnd) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line != "" {
			lines = append(lines, line)
		}
	}
	return shorten(strings.Join(lines, "; "), limit)
}

// Lines returns the text with its line breaks and tabs, for a reader who wants to
// see them, and without everything else that Line replaces. It is as long as the
// text at most: whoever keeps the text bounds it.
func Lines(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == utf8.RuneError || printable(r) != r || isLineEnd(r):
			return -1
		}
		return r
	}, text)
}

func isLineEnd(r rune) bool {
	return r == '\n' || r == '\r' || r == '\v' || r == '\f' || r == '\u0085' || r == '\u2028' || r == '\u2029'
}

// printable replaces control characters, and those that reorder what follows.
func printable(r rune) rune {
	if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
		return ' '
	}
	return r
}

// shorten cuts the middle out of a text of more than limit bytes, between
// characters.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	if limit <= len(cut) {
		return ""
	}
	half := (limit - len(cut)) / 2
	head, tail := half, len(text)-half
	for head > 0 && !utf8.RuneStart(text[head]) {
		head--
	}
	for tail < len(text) && !utf8.RuneStart(text[tail]) {
		tail++
	}
	return text[:head] + cut + text[tail:]
}
