package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                             nil,
		"  # a comment":                nil,
		"a  b\tc # d":                  {"a", "b", "c"},
		"a#b":                          {"a#b"},
		`'a b' "c d"e f\ g ''`:         {"a b", "c de", "f g", ""},
		`"\n\t\r\x41\"\\\q" '\n'`:      {"\n\t\rA\"\\q", `\n`},
		`x=a=b y=`:                     {"x=a=b", "y="},
		`json://{"a": "b c}"} d`:       {`json://{"a": "b c}"}`, "d"},
		`k={"a": [1, 2]} l=[1, "x y"]`: {`k={"a": [1, 2]}`, `l=[1, "x y"]`},
		`k='{not json'`:                {"k={not json"},
		`k=a{b`:                        {"k=a{b"},
		`k=\{`:                         {"k={"},
		`json://'{"a": 1}'`:            {`json://{"a": 1}`},
		`ü="ä ö"`:                      {"ü=ä ö"},
	} {
		got, err := (&scanner{line: line}).words()
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	for line, want := range map[string]string{
		`'a b`:         "quote 'a b does not end",
		`x "a b\"`:     `quote "a b\" does not end`,
		`"\`:           "does not end",
		`"\xz1"`:       `\xz1 is not a byte`,
		`"\x1"`:        "is not a byte",
		`json://{"a":`: "it does not end",
		`json://{a}`:   "invalid character",
		`k={"a":1}x`:   `"x" follows JSON without a blank`,
	} {
		if got, err := (&scanner{line: line}).words(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %s", line, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		`CreateContainer cid=x args="sh -c 'a'" OCI.Annotations.a=b`, `repeat 2 Check`, `GetGuestDetails json://{"mem_block_size":true}`,
		`SignalProcess signal=RTMIN+3`, `WriteStdin data="\x00"`, `sleep 1s`, `help Check`, `AddARPNeighbors neighbors={"ARPNeighbors":[]}`,
	} {
		f.Add(line)
	}
	p := NewParser()
	f.Fuzz(func(t *testing.T, line string) {
		if _, err := p.Parse(line); err != nil && !strings.Contains(err.Error(), ":") {
			t.Errorf("%q: %v", line, err)
		}
		p.Complete(line)
	})
}
