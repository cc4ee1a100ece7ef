//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kata/test/harness"
)

const (
	busybox = "local/busybox:latest"
	limit   = 10 * time.Minute
)

// suite is what the benchmarks share. Set by TestMain.
var suite struct {
	node *harness.Node
	repo harness.Repo
	rows []row
}

// row is one line of the result.
type row struct{ what, value, budget string }

// report adds a line to the table at the end.
func report(what, value, budget string) {
	suite.rows = append(suite.rows, row{what, value, budget})
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if suite.repo, err = harness.Repository(); err != nil {
		return 0, err
	}
	suite.node, err = harness.Start(ctx, harness.Options{ShimDirs: []string{suite.repo.Bin()}, KataConfig: suite.repo.KataConfig(nil)})
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := suite.node.Close(); err == nil {
			err = closeErr
		}
	}()
	image, err := harness.Busybox(busybox)
	if err != nil {
		return 0, err
	}
	if err := suite.node.Import(ctx, image); err != nil {
		return 0, err
	}
	code = m.Run()
	for _, r := range suite.rows {
		if r.budget != "" {
			r.budget = "budget " + r.budget
		}
		fmt.Println(strings.TrimRight(fmt.Sprintf("%-44s %-28s %s", r.what, r.value, r.budget), " "))
	}
	return code, nil
}

// median of at least one duration.
func median(values []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// spread writes a median with the fastest and the slowest.
func spread(values []time.Duration) string {
	return fmt.Sprintf("%s (%s to %s)", ms(median(values)), ms(slices.Min(values)), ms(slices.Max(values)))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }

func mb(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// container returns a busybox container.
func container(runtime string, args ...string) harness.Container {
	return harness.Container{ID: suite.node.NewID("bench"), Image: busybox, Runtime: runtime, Args: args}
}

// detached starts a sleeping container that goes away with the benchmark.
func detached(b *testing.B, runtime string, flags ...string) string {
	b.Helper()
	c := container(runtime, "/bin/sh", "-c", "exec sleep 100000")
	c.Flags = flags
	return start(b, c)
}

func start(b *testing.B, c harness.Container) string {
	b.Helper()
	b.Cleanup(func() {
		if err := suite.node.Remove(context.Background(), c.ID); err != nil {
			b.Error(err)
		}
	})
	if r := suite.node.Detach(b.Context(), c); r.Err != nil {
		b.Fatal(r.Failure())
	}
	return c.ID
}

var runtimes = []struct{ name, runtime string }{{"kata", harness.Kata}, {"runc", harness.Runc}}
