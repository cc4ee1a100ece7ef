package metrics

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var update = flag.Bool("update", false, "write the golden file")

// TestPage is about a /proc of the tests, but for the limit of open files.
func TestPage(t *testing.T) {
	c := &Collector{root: "testdata/proc"}
	page := string(c.Collect())
	for name, family := range scrape(t, page) {
		if family.GetHelp() == "" || family.GetType() == dto.MetricType_UNTYPED || len(family.Metric) == 0 {
			t.Errorf("%s is not complete: %v", name, family)
		}
	}
	page = regexp.MustCompile(`(?m)^(kata_agent_process_max_fds) \d+$`).ReplaceAllString(page, "$1 N")
	const golden = "testdata/page.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(page, "\n")); diff != "" {
		t.Error(diff)
	}
	if again := string(c.Collect()); !strings.Contains(again, "\nkata_agent_scrape_count 2\n") {
		t.Error("the second page is not the second")
	}
}

// scrape reads a page as Prometheus does.
func scrape(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func TestWithoutProcThereIsLittle(t *testing.T) {
	page := string((&Collector{root: t.TempDir()}).Collect())
	if want := "# HELP kata_agent_scrape_count Metrics scrape count\n# TYPE kata_agent_scrape_count counter\nkata_agent_scrape_count 1\n"; page != want {
		t.Errorf("page %q", page)
	}
}

func TestSeconds(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 100: "1", 7: "0.07", 1230: "12.30", 176732200044: "1767322000.44"} {
		if got := seconds(n); got != want {
			t.Errorf("seconds(%d) = %s, want %s", n, got, want)
		}
	}
}

func BenchmarkCollect(b *testing.B) {
	c := new(Collector)
	b.ReportAllocs()
	for b.Loop() {
		c.Collect()
	}
}
