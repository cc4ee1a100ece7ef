package untrusted

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":               {"", ""},
		"a plain sentence":      {"exec: no such file", "exec: no such file"},
		"lines":                 {"one\r\n\n  two\nthree\n", "one; two; three"},
		"Unicode's line ends":   {"one\u2028two\u0085three", "one; two; three"},
		"no UTF-8":              {"a\xff\xfeb", "a\uFFFDb"},
		"a terminal's escapes":  {"\x1b[31mred\x1b[0m\a", "[31mred [0m"},
		"text that is reversed": {"a\u202eb\u200fc", "a b c"},
		"NUL":                   {"a\x00b", "a b"},
		"umlauts stay":          {"größer", "größer"},
		"too long":              {strings.Repeat("a", 100) + strings.Repeat("b", 100), "aaaaaaaaaaaaaa" + cut + "bbbbbbbbbbbbbb"},
		"cut between letters":   {strings.Repeat("ö", 100), strings.Repeat("ö", 7) + cut + strings.Repeat("ö", 7)},
		"far too long":          {"begin" + strings.Repeat("x", 1<<20) + "end", "beginxxxxxxxxx" + cut + "xxxxxxxxxxxend"},
	} {
		if got := Line(tt.in, 33); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestLinesKeepsLineBreaks(t *testing.T) {
	got := Lines("a\r\n\x1b[31mred\x1b[0m\ttab\x00\x7f\xff é\u0085\u202e")
	if want := "a\n[31mred[0m\ttab é"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\xffb\n\x1b[2J", 40)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 1 + limit&0xfff
		got := Line(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("Line(%q, %d) = %q", text, limit, got)
		}
	})
}
