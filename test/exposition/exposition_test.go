package exposition

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse("# HELP a_total what it is\n# TYPE a_total counter\na_total 3\n" +
		"# HELP b b\n# TYPE b gauge\nb{x=\"1\",y=\"a\\\"b\\\\\"} 1.5\nb{x=\"2\"} 4e3\n")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*Family{
		"a_total": {Type: "counter", Help: "what it is", Samples: map[string]float64{"": 3}},
		"b":       {Type: "gauge", Help: "b", Samples: map[string]float64{`x="1",y="a\"b\\"`: 1.5, `x="2"`: 4000}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatNoScraperTakes(t *testing.T) {
	const head = "# HELP a x\n# TYPE a gauge\n"
	for name, page := range map[string]string{
		"no end":                 head + "a 1",
		"no announcement":        "a 1\n",
		"no type":                "# HELP a x\na 1\n",
		"no samples":             head,
		"no value":               head + "a\n",
		"a word for a value":     head + "a one\n",
		"the same labels twice":  head + "a{x=\"1\"} 1\na{x=\"1\"} 2\n",
		"a family in two places": head + "a 1\n# HELP b x\n# TYPE b gauge\nb 1\na{x=\"1\"} 1\n",
		"a quote too many":       head + "a{x=\"1\"\"} 1\n",
		"a bare quote":           head + "a{x=\"1\\y\"} 1\n",
		"an open brace":          head + "a{x=\"1\" 1\n",
		"a name with a dash":     "# HELP a-b x\n# TYPE a-b gauge\na-b 1\n",
		"an unknown type":        "# HELP a x\n# TYPE a number\na 1\n",
		"an empty line":          head + "a 1\n\n",
	} {
		if families, err := Parse(page); err == nil {
			t.Errorf("%s: taken as %+v", name, families)
		}
	}
}
