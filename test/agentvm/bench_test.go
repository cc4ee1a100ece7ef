//go:build bench

package agentvm

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/healthpb"
)

// BenchmarkAgent prints what the agent costs in a guest: its size, its memory
// idle with one container and after load, and the latency of calls. Run it with
// -benchtime 1x; what calls allocate is BenchmarkCalls of cmd/kata-agent.
func BenchmarkAgent(b *testing.B) {
	for b.Loop() {
		info, err := os.Stat(AgentBinary(b))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/1e6, "MB/binary")
		fmt.Printf("%-32s %6.2f MB   budget 3.2 MB\n\n", "agent, binary", float64(info.Size())/1e6)
		v := Boot(b, Options{}).Sandbox()
		probe := v.Probe()
		fmt.Printf("%-32s %10s %10s %10s %8s\n", "memory in the guest, KiB", "resident", "anonymous", "huge", "threads")
		idle := row(b, "idle, one container", probe.Settled())
		b.ReportMetric(float64(idle.Resident)/1e6, "MB/resident")
		b.ReportMetric(float64(idle.Anonymous)/1e6, "MB/anonymous")
		v.Execs("probe", 1000)
		row(b, "after 1,000 execs", probe.Settled())
		v.Calls(10_000)
		row(b, "after 10,000 calls", probe.Settled())
		v.Pour("probe", 1024)
		after := row(b, "after 1 GiB of output", probe.Settled())
		b.ReportMetric(float64(after.Resident-idle.Resident)/1e6, "MB/grown")
		fmt.Printf("%-32s %10d %10d            budget 488 (0.5 MB)\n\n", "grown", (after.Resident-idle.Resident)>>10, (after.Anonymous-idle.Anonymous)>>10)
		latencies(b, v)
	}
}

func row(b *testing.B, what string, m Memory) Memory {
	b.Helper()
	fmt.Printf("%-32s %10d %10d %10d %8d\n", what, m.Resident>>10, m.Anonymous>>10, m.Huge>>10, m.Threads)
	return m
}

// latencies prints how long calls take from the host.
func latencies(b *testing.B, v *VM) {
	b.Helper()
	ctx := b.Context()
	execs := 0
	fmt.Printf("%-32s %10s %10s %10s\n", "latency of calls, us", "median", "99 %", "calls")
	for _, c := range []struct {
		name   string
		rounds int
		call   func(context.Context) error
	}{
		{"Check", 1000, func(ctx context.Context) error {
			_, err := v.Health.Check(ctx, &healthpb.CheckRequest{})
			return err
		}},
		{"GetGuestDetails", 300, func(ctx context.Context) error {
			_, err := v.Agent.GetGuestDetails(ctx, &agentpb.GuestDetailsRequest{MemBlockSize: true})
			return err
		}},
		{"SignalProcess", 300, func(ctx context.Context) error {
			_, err := v.Agent.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: "probe"})
			return err
		}},
		{"StatsContainer", 300, func(ctx context.Context) error {
			_, err := v.Agent.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: "probe"})
			return err
		}},
		{"ListProcesses", 300, func(ctx context.Context) error {
			_, err := v.Agent.ListProcesses(ctx, &agentpb.ListProcessesRequest{ContainerId: "probe", Format: "json"})
			return err
		}},
		{"ListInterfaces", 300, func(ctx context.Context) error {
			_, err := v.Agent.ListInterfaces(ctx, &agentpb.ListInterfacesRequest{})
			return err
		}},
		{"GetMetrics", 100, func(ctx context.Context) error {
			_, err := v.Agent.GetMetrics(ctx, &agentpb.GetMetricsRequest{})
			return err
		}},
		{"ExecProcess and WaitProcess", 100, func(ctx context.Context) error {
			execs++
			id := fmt.Sprintf("latency%d", execs)
			if err := v.Exec("probe", id, Process("true"), Streams{}); err != nil {
				return err
			}
			_, err := v.Agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: "probe", ExecId: id})
			return err
		}},
	} {
		took := make([]time.Duration, c.rounds)
		for i := range took {
			begun := time.Now()
			if err := c.call(ctx); err != nil {
				b.Fatalf("%s: %v", c.name, err)
			}
			took[i] = time.Since(begun)
		}
		slices.Sort(took)
		fmt.Printf("%-32s %10d %10d %10d\n", c.name, took[len(took)/2].Microseconds(), took[len(took)*99/100].Microseconds(), c.rounds)
	}
}
