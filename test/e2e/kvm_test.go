//go:build e2e && kvm

package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestKVMIsChosenAndSaysWhy runs on a machine that has KVM (test/kvm) with
// accel = "auto", the default: kata-runtime and the shim's log give the same
// verdict, and the VMM runs with it.
func TestKVMIsChosenAndSaysWhy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "kata-runtime", "check", "--verbose").CombinedOutput()
	if err != nil {
		t.Fatalf("kata-runtime check: %v\n%s", err, out)
	}
	t.Logf("kata-runtime check:\n%s", out)
	for _, want := range []string{"accelerator: kvm (kvm_amd runs guest code at native speed", "System can currently create Kata Containers"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("kata-runtime check does not say %q", want)
		}
	}
	kata(t, "kata", func(t *test) {
		logged := logSize(t.T)
		id := t.detach(t.sh("sleep 1000"))
		vmm, err := node.AwaitProcess(t.ctx, id, qemu...)
		if err != nil {
			t.Fatal(err)
		}
		if line := strings.Join(vmm.Args, " "); !strings.Contains(line, "-accel kvm") || !strings.Contains(line, "-cpu host") {
			t.Errorf("the VMM runs with %s", line)
		}
		if log := logSince(t.T, logged); !strings.Contains(log, "accelerator chosen") || !strings.Contains(log, "kvm_amd") {
			t.Errorf("the shim's log does not name the accelerator:\n%s", log)
		}
		clock := t.exec(id, "clock", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
		t.Logf("clock source of the guest: %s", clock.Stdout)
	})
}
