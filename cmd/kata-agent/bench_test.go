package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"kata/api/agentpb"
	"kata/api/healthpb"
)

// testAllocations, in the environment of an agent of the tests, names the unix
// socket at which it tells what it has allocated.
const testAllocations = "KATA_AGENT_TEST_ALLOCATIONS"

// allocations is what a program has allocated since its start.
type allocations struct{ Objects, Bytes uint64 }

// serveAllocations tells whoever connects what this process has allocated.
func serveAllocations(path string) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		_ = binary.Write(conn, binary.BigEndian, allocations{stats.Mallocs, stats.TotalAlloc})
		_ = conn.Close()
	}
}

// allocations returns what the agent has allocated.
func (g *guest) allocations() (a allocations) {
	g.Helper()
	conn, err := net.Dial("unix", filepath.Join(g.dir, "allocations.sock"))
	if err != nil {
		g.Fatal(err)
	}
	defer conn.Close()
	if err := binary.Read(conn, binary.BigEndian, &a); err != nil {
		g.Fatal(err)
	}
	return a
}

// BenchmarkCalls is the latency of calls to an agent that runs on this machine,
// as a process, and what they allocate in it, in all: from the frame to the
// answer, and the streams of execs.
func BenchmarkCalls(b *testing.B) {
	g := startAgent(b).sandbox()
	g.run("c", process("cat"), streams{})
	execs := 0
	for _, c := range []struct {
		name string
		call func(context.Context) error
	}{
		{"Check", func(ctx context.Context) error {
			_, err := g.health.Check(ctx, &healthpb.CheckRequest{})
			return err
		}},
		{"GetGuestDetails", func(ctx context.Context) error {
			_, err := g.agent.GetGuestDetails(ctx, &agentpb.GuestDetailsRequest{})
			return err
		}},
		{"SignalProcess", func(ctx context.Context) error {
			_, err := g.agent.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: "c"})
			return err
		}},
		{"StatsContainer", func(ctx context.Context) error {
			_, err := g.agent.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: "c"})
			return err
		}},
		{"ListInterfaces", func(ctx context.Context) error {
			_, err := g.agent.ListInterfaces(ctx, &agentpb.ListInterfacesRequest{})
			return err
		}},
		{"GetMetrics", func(ctx context.Context) error {
			_, err := g.agent.GetMetrics(ctx, &agentpb.GetMetricsRequest{})
			return err
		}},
		{"WriteStdin and ReadStdout of 4 KiB", func(ctx context.Context) error {
			if _, err := g.agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: "c", Data: make([]byte, 4096)}); err != nil {
				return err
			}
			for got := 0; got < 4096; {
				read, err := g.agent.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: "c", Len: 4096})
				if err != nil {
					return err
				}
				got += len(read.Data)
			}
			return nil
		}},
		{"ExecProcess and WaitProcess", func(context.Context) error {
			execs++
			id, s := fmt.Sprintf("e%d", execs), g.streams()
			defer s.close()
			if err := g.exec("c", id, process("true"), s); err != nil {
				return err
			}
			exit := g.wait("c", id)
			_, err := io.CopyN(io.Discard, s.stdout, int64(exit.StdoutBytes))
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			before, n := g.allocations(), uint64(0)
			for b.Loop() {
				if err := c.call(b.Context()); err != nil {
					b.Fatal(err)
				}
				n++
			}
			after := g.allocations()
			b.ReportMetric(float64((after.Objects-before.Objects)/n), "allocs/call")
			b.ReportMetric(float64((after.Bytes-before.Bytes)/n), "B/call")
		})
	}
}

// startAllocations serves allocations in an agent that is asked to.
func startAllocations() {
	if path := os.Getenv(testAllocations); path != "" {
		go serveAllocations(path)
	}
}
