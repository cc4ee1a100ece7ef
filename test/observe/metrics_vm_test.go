//go:build vm

package observe

import (
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/test/agentvm"
)

// samples are the values of a page, by name and labels: a{item="x"}.
type samples map[string]float64

// scrape reads a page as Prometheus does.
func scrape(t *testing.T, page string) samples {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	all := make(samples)
	for name, family := range families {
		for _, m := range family.Metric {
			value := m.GetGauge().GetValue()
			if family.GetType() == dto.MetricType_COUNTER {
				value = m.GetCounter().GetValue()
			}
			labels := make(model.Metric)
			for _, label := range m.Label {
				labels[model.LabelName(label.GetName())] = model.LabelValue(label.GetValue())
			}
			labels[model.MetricNameLabel] = model.LabelValue(name)
			all[labels.String()] = value
		}
	}
	return all
}

func TestMetricsAndDiagnosticData(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{VCPUs: 2}).Sandbox()
	for i := range 2 {
		resp, err := v.Agent.GetMetrics(t.Context(), &agentpb.GetMetricsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		values := scrape(t, resp.Metrics)
		if n := values["kata_agent_scrape_count"]; int(n) != i+1 {
			t.Errorf("scrape %d is number %v", i+1, n)
		}
		if total := values[`kata_guest_meminfo{item="mem_total"}`]; total < 300<<20 || total > 512<<20 {
			t.Errorf("the guest has %v bytes of memory", total)
		}
		if _, ok := values[`kata_guest_cpu_time{cpu="1", item="idle"}`]; !ok {
			t.Error("nothing is known of the second CPU")
		}
		if _, ok := values[`kata_guest_netdev_stat{interface="lo", item="recv_bytes"}`]; !ok {
			t.Error("nothing is known of the loopback device")
		}
		if rss := values["kata_agent_total_rss"]; rss <= 0 || rss > 32<<20 {
			t.Errorf("the agent has %v bytes", rss)
		}
	}

	log, err := v.Agent.GetDiagnosticData(t.Context(), &agentpb.GetDiagnosticDataRequest{LogType: "kernel-log"})
	if err != nil || !strings.Contains(log.GetData(), "Command line: ") {
		t.Errorf("kernel log of %d bytes, %v", len(log.GetData()), err)
	}
	v.Run("c", agentvm.Spec(agentvm.Process("true")), agentvm.Streams{})
	words, err := v.Agent.GetDiagnosticData(t.Context(), &agentpb.GetDiagnosticDataRequest{LogType: "termination-log", ContainerId: "c"})
	if err != nil || words.GetData() != "" { // there is no such file
		t.Errorf("last words %v, %v", words, err)
	}
	for want, req := range map[string]*agentpb.GetDiagnosticDataRequest{
		`log_type "all" is neither`:     {LogType: "all"},
		`log_type "" is neither`:        {},
		`container_id "" is missing`:    {LogType: "termination-log"},
		`container_id "c" has no`:       {LogType: "kernel-log", ContainerId: "c"},
		`container "nobody": not found`: {LogType: "termination-log", ContainerId: "nobody"},
	} {
		code := ttrpc.InvalidArgument
		if strings.Contains(want, "not found") {
			code = ttrpc.NotFound
		}
		if _, err := v.Agent.GetDiagnosticData(t.Context(), req); ttrpc.CodeOf(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
