//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vmm/accel"
	"kata/host/vmm/qemu"
	"kata/host/vmm/vmmtest"
	"kata/test/harness"
)

// guestMemoryMiB is the configuration's default_memory.
const guestMemoryMiB = 2048

// BenchmarkStart: from calling `ctr run` to the container's first output, and
// from starting QEMU to the first line of an init, with the same kernel,
// machine and memory.
func BenchmarkStart(b *testing.B) {
	const rounds = 11
	boot := newBareBoot(b)
	took := make(map[string][]time.Duration)
	for b.Loop() {
		for range rounds {
			took["bare"] = append(took["bare"], boot(b))
			for _, r := range runtimes {
				took[r.name] = append(took[r.name], firstOutput(b, r.runtime))
			}
		}
	}
	kata, bare := median(took["kata"]), median(took["bare"])
	budget := bare*115/100 + median(took["runc"])
	b.ReportMetric(float64(kata.Milliseconds()), "ms/kata")
	b.ReportMetric(float64(bare.Milliseconds()), "ms/bare")
	b.ReportMetric(float64(median(took["runc"]).Milliseconds()), "ms/runc")
	b.ReportMetric(float64(kata)/float64(bare), "kata/bare")
	report("first output of ctr run, kata", spread(took["kata"]), fmt.Sprintf("1.15 x bare + runc = %s", ms(budget)))
	report("first line of init, bare QEMU", spread(took["bare"]), "")
	report("first output of ctr run, runc", spread(took["runc"]), "")
}

// firstOutput runs a container and returns when its first line came.
func firstOutput(b *testing.B, runtime string) time.Duration {
	b.Helper()
	begun := time.Now()
	run := suite.node.Begin(b.Context(), container(runtime, "echo", "first"))
	err := run.Stdout.Await(b.Context(), "output", func(s string) bool { return s != "" })
	took := time.Since(begun)
	if r := run.Wait(); err != nil || r.Err != nil {
		b.Fatal(err, r.Failure())
	}
	return took
}

// newBareBoot returns a function that boots the guest's kernel in the same QEMU
// that pods get, without vsock, shares or agent, to an init that prints a line.
func newBareBoot(b *testing.B) func(*testing.B) time.Duration {
	b.Helper()
	verdict, err := accel.Probe(b.Context(), "auto")
	if err != nil {
		b.Fatal(err)
	}
	initrd := vmmtest.Initrd(b, vmmtest.TestInit)
	spawner := process.NewSpawner()
	return func(b *testing.B) time.Duration {
		b.Helper()
		spec := vmm.Spec{
			ID:        suite.node.NewID("bare"),
			Dir:       b.TempDir(),
			VCPUs:     1,
			MemoryMiB: guestMemoryMiB,
			Kernel:    suite.repo.Kernel(),
			Initrd:    initrd,
			Accel:     verdict.Name,
		}
		machine, err := qemu.New(spec, qemu.Config{}, spawner, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		begun := time.Now()
		if err := machine.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		err = harness.Await(b.Context(), "init", func() (bool, error) {
			return strings.Contains(machine.ConsoleTail(), vmmtest.Ready), nil
		})
		took := time.Since(begun)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 10*time.Second)
		defer cancel()
		if stopErr := machine.Stop(ctx); err != nil || stopErr != nil {
			b.Fatal(err, stopErr)
		}
		return took
	}
}

// BenchmarkExec: `ctr tasks exec` of true, as a user waits for it.
func BenchmarkExec(b *testing.B) {
	const rounds = 21
	took := make(map[string][]time.Duration)
	ids := make(map[string]string)
	for _, r := range runtimes {
		ids[r.name] = detached(b, r.runtime)
	}
	for b.Loop() {
		for i := range rounds {
			for _, r := range runtimes {
				result := suite.node.Exec(b.Context(), ids[r.name], fmt.Sprint("e", i), "true")
				if result.Err != nil {
					b.Fatal(result.Failure())
				}
				took[r.name] = append(took[r.name], result.Elapsed)
			}
		}
	}
	for _, r := range runtimes {
		b.ReportMetric(float64(median(took[r.name]).Milliseconds()), "ms/"+r.name)
		report("ctr exec of true, "+r.name, spread(took[r.name]), "")
	}
}

// BenchmarkStdout: 256 MiB from dd in the container to ctr's stdout.
func BenchmarkStdout(b *testing.B) {
	const rounds, size = 5, 256 << 20
	took := make(map[string][]time.Duration)
	for b.Loop() {
		for range rounds {
			for _, r := range runtimes {
				took[r.name] = append(took[r.name], pour(b, r.runtime, size))
			}
		}
	}
	for _, r := range runtimes {
		rate := float64(size>>20) / median(took[r.name]).Seconds()
		b.ReportMetric(rate, "MiB/s/"+r.name)
		report("stdout, "+r.name, fmt.Sprintf("%.0f MiB/s", rate), "")
	}
}

// pour returns how long size bytes took from the first to the last.
func pour(b *testing.B, runtime string, size int64) time.Duration {
	b.Helper()
	c := container(runtime, "dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", size>>20))
	r, w := io.Pipe()
	c.Stdout = w
	run := suite.node.Begin(b.Context(), c)
	go func() {
		<-run.Done()
		w.Close()
	}()
	if _, err := io.CopyN(io.Discard, r, 1); err != nil {
		b.Fatal(err, run.Wait().Failure())
	}
	begun := time.Now()
	n, err := io.CopyN(io.Discard, r, size-1)
	took := time.Since(begun)
	if err != nil || n != size-1 {
		b.Fatalf("%d bytes arrived, %v", n, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
	if result := run.Wait(); result.Err != nil {
		b.Fatal(result.Failure())
	}
	return took
}

// BenchmarkMemory: what an idle pod costs the host, by process.
func BenchmarkMemory(b *testing.B) {
	budgets := map[string]string{"containerd-shim-kata-v2": "12 MB"}
	for b.Loop() {
		for _, r := range runtimes {
			id := detached(b, r.runtime)
			pss := make(map[string]int64)
			var names []string
			for _, p := range suite.node.Processes(id) {
				n, err := p.PSS()
				if err != nil {
					b.Fatal(err)
				}
				if pss[p.Program()] == 0 {
					names = append(names, p.Program())
				}
				pss[p.Program()] += n
			}
			for _, name := range names {
				b.ReportMetric(float64(pss[name])/1e6, "MB/"+name)
				report("idle pod, PSS of "+name, mb(pss[name]), budgets[name])
			}
		}
	}
}
