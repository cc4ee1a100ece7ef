package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"kata/api/healthpb"
)

// memory returns a figure of the agent's /proc/PID/status in KiB.
func (g *guest) memory(key string) float64 {
	g.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.process.Pid))
	if err != nil {
		g.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	g.Fatalf("no %s in %q", key, status)
	return 0
}

// idleTime is how long the agent is left alone before its memory is looked at.
const idleTime = idleAfter + time.Second

// BenchmarkExec is the latency of one exec from request to the end of its
// output, and what is left of them all in the agent's anonymous memory. (This is
// the test program; the agent itself has less text, the same heap.)
func BenchmarkExec(b *testing.B) {
	g := startAgent(b).sandbox()
	g.run("c", process("sleep", "1000"), g.streams())
	time.Sleep(idleTime) // what is measured is idleness
	before := g.memory("RssAnon")
	n := 0
	for b.Loop() {
		id, s := fmt.Sprintf("e%d", n), g.streams()
		n++
		if err := g.exec("c", id, process("true"), s); err != nil {
			b.Fatal(err)
		}
		g.wait("c", id)
		s.close()
	}
	time.Sleep(idleTime)
	b.ReportMetric(before, "KiB-anon-idle")
	b.ReportMetric(g.memory("RssAnon"), "KiB-anon-after")
	b.ReportMetric(g.memory("Threads"), "threads")
}

// BenchmarkCheck is the latency of a call that does nothing.
func BenchmarkCheck(b *testing.B) {
	g := startAgent(b)
	for b.Loop() {
		if _, err := g.health.Check(b.Context(), &healthpb.CheckRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
