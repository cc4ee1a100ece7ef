//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestVMMOfAPodIsConfined reads what the kernel says about the QEMU of a container
// that works.
func TestVMMOfAPodIsConfined(t *testing.T) {
	kata(t, "kata", func(t *test) {
		score := 321
		id := t.detach(t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"sleep", "1000"}
			s.Process.OOMScoreAdj = &score
		}))
		vmm, err := node.AwaitProcess(t.ctx, id, qemu...)
		if err != nil {
			t.Fatal(err)
		}
		const none = "0000000000000000"
		for file, lines := range map[string][]string{
			"status": {
				"NoNewPrivs:\t1", "Seccomp:\t2",
				"CapInh:\t" + none, "CapPrm:\t" + none, "CapEff:\t" + none, "CapBnd:\t" + none, "CapAmb:\t" + none,
			},
			"oom_score_adj": {"321"},
			"limits":        {fmt.Sprintf("%-25s %-20d %-20d %-10s", "Max core file size", 0, 0, "bytes")},
		} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", vmm.PID, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				if !strings.Contains("\n"+string(text), "\n"+line) {
					t.Errorf("no line %q in %s of %s:\n%s", line, file, vmm, text)
				}
			}
		}
		t.wantOutput(t.exec(id, "works", "echo", "works"), "works\n", "")
	})
}
