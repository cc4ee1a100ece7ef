//go:build vm

package agentvm

import (
	"testing"

	"kata/api/ocipb"
	"kata/host/guestvm/guestvmtest"
)

// The agent does what the fake does that stands for it in tests of the host.
func TestTheAgentIsAnAgent(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	guestvmtest.TestAgent(t, guestvmtest.AgentUnderTest{
		Client: v.Agent,
		Exits3: func() *ocipb.Spec { return Spec(Shell("exit 3")) },
		Sleeps: func() *ocipb.Spec { return Spec(Process("sleep", "1000")) },
	})
}
