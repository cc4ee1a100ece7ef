//go:build vm

package agentvm

import (
	"context"
	"strings"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ttrpc"
)

const rules = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
`

// TestThePacketFilterIsAHelpers sets and reads the packet filter, which takes a
// program of the image, and looks at what that leaves behind.
func TestThePacketFilterIsAHelpers(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	probe := v.Probe()
	before := probe.Settled()
	for range 5 {
		if _, err := v.Agent.SetIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte(rules)}); err != nil {
			t.Fatal(err)
		}
		saved, err := v.Agent.GetIPTables(t.Context(), &agentpb.GetIPTablesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		// Bytes and packets may have been counted.
		if text := string(saved.Data); !strings.Contains(text, ":FORWARD DROP [0:0]\n") || !strings.Contains(text, "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n") {
			t.Fatalf("saved:\n%s", text)
		}
	}
	if _, err := v.Agent.SetIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte(strings.Replace(rules, "DROP", "MAYBE", 1)), IsIpv6: true}); ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), "data: line 3: ") {
		t.Errorf("a wrong text: %v", err)
	}
	// A client that does not wait leaves no process and nothing half done.
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, _ = v.Agent.SetIPTables(ctx, &agentpb.SetIPTablesRequest{Data: []byte(rules)})
		cancel()
	}
	saved, err := v.Agent.GetIPTables(t.Context(), &agentpb.GetIPTablesRequest{})
	if err != nil || !strings.Contains(string(saved.Data), "--dport 80") {
		t.Errorf("at last: %v, %v", saved, err)
	}
	after := probe.Await(func(m Memory) bool {
		return m.Resident <= before.Resident+maxGrowth && m.Anonymous <= before.Anonymous+maxGrowth
	})
	t.Logf("before %v, after %v", before, after)
	if after.Anonymous > before.Anonymous+maxGrowth {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestAnImageWithoutHelpers names the file that is missing.
func TestAnImageWithoutHelpers(t *testing.T) {
	v := Boot(t, Options{NoHelpers: true})
	_, err := v.Agent.GetIPTables(t.Context(), &agentpb.GetIPTablesRequest{})
	if ttrpc.CodeOf(err) != ttrpc.Unimplemented || !strings.Contains(err.Error(), "the guest's image has no /usr/libexec/kata/iptables") {
		t.Error(err)
	}
}
