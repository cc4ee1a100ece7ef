//go:build vm

package agentvm

import "testing"

// The budgets of SPECIFICATION.md. Here a megabyte is a million bytes.
const (
	maxAnonymous = 900_000
	maxLoaded    = 1_050_000 // anonymous, after load; 1.0 MB, and what a page more or less in each of many places makes
	maxResident  = 3_000_000
	maxGrowth    = 500_000
)

// Idle looks at the agent's memory until it is within the budgets of an idle agent, or
// for so long that it never will: when it gives back is its own affair.
func (p *Probe) Idle() Memory {
	p.v.Helper()
	return p.Await(func(m Memory) bool { return m.Anonymous <= maxAnonymous && m.Resident <= maxResident })
}

// TestMemoryComesBack loads the agent with a part of what the benchmark does
// (make bench-agent) and looks at its memory before and after.
func TestMemoryComesBack(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	idle := probe.Idle()
	t.Logf("idle: %v", idle)
	if idle.Anonymous > maxAnonymous {
		t.Errorf("idle with one container, %d bytes are anonymous, more than %d", idle.Anonymous, maxAnonymous)
	}
	if idle.Resident > maxResident {
		t.Errorf("idle with one container, %d bytes are resident, more than %d", idle.Resident, maxResident)
	}
	for _, load := range []struct {
		name string
		run  func()
	}{
		{"3000 calls", func() { v.Calls(3000) }},
		{"200 execs", func() { v.Execs("probe", 200) }},
		{"256 MiB of output", func() { v.Pour("probe", 256) }},
	} {
		load.run()
		after := probe.Await(func(m Memory) bool {
			return m.Resident <= idle.Resident+maxGrowth && m.Anonymous <= maxLoaded
		})
		t.Logf("after %s: %v", load.name, after)
		if after.Anonymous > maxLoaded {
			t.Errorf("after %s, %d bytes are anonymous, more than %d", load.name, after.Anonymous, maxLoaded)
		}
		if grown := after.Resident - idle.Resident; grown > maxGrowth {
			t.Errorf("after %s, %d more bytes are resident", load.name, grown)
		}
		if after.Huge != 0 {
			t.Errorf("after %s, %d bytes are in huge pages", load.name, after.Huge)
		}
	}
}
