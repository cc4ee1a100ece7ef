//go:build vm

package observe

import (
	"bufio"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/host/vsock"
	"kata/test/agentvm"
	"kata/test/pace"
)

const logPort = 1025

// record is a line of the log.
type record struct {
	Msg, Level, Name, Source, Subsystem, Pid, Version string
	TS                                                time.Time
	Method, Key                                       string // of some
}

// parse fails the test for a line that is not a record as upstream's.
func parse(t *testing.T, line string) record {
	t.Helper()
	var r record
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Errorf("line %q: %v", line, err)
		return r
	}
	if r.Msg == "" || r.Level == "" || r.Name != "kata-agent" || r.Source != "agent" || r.Subsystem == "" || r.Pid != "1" || r.Version == "" || r.TS.IsZero() {
		t.Errorf("line %q lacks a field: %+v", line, r)
	}
	return r
}

// TestLogToTheHost: all of the log arrives, from before there was a connection to
// the last call.
func TestLogToTheHost(t *testing.T) {
	var l net.Listener
	v := agentvm.Boot(t, agentvm.Options{
		Params: []string{"agent.log=trace", "agent.log_vport=1025", "agent.nonsense=1"},
		Link: func(d vsock.Dialer) {
			var err error
			if l, err = d.Listen(logPort); err != nil {
				t.Fatal(err)
			}
		},
	}).Sandbox()
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(pace.Of(limit))); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Agent.DestroySandbox(t.Context(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Error(err)
	}
	var early, called, last bool
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		r := parse(t, lines.Text())
		switch {
		case r.Msg == "kernel parameter ignored":
			early = r.Key == "agent.nonsense" && r.Level == "WARN"
		case r.Method == "CreateSandbox":
			called = r.Level == "TRACE" && r.Subsystem == "rpc"
		case r.Method == "DestroySandbox":
			last = true
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the log ends with %v", err)
	}
	if !early || !called || !last {
		t.Errorf("the log has the first line: %v, a call: %v, the last call: %v", early, called, last)
	}
	<-v.Machine.Done()
}

// TestLogToAHostThatDoesNotListen: nothing of it is lost then either.
func TestLogToAHostThatDoesNotListen(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{Params: []string{"agent.log_vport=1025", "agent.nonsense=1"}})
	for deadline := time.Now().Add(pace.Of(limit)); ; time.Sleep(10 * time.Millisecond) {
		tail := v.Machine.ConsoleTail()
		if strings.Contains(tail, `"msg":"kernel parameter ignored"`) && strings.Contains(tail, `"msg":"log goes to the console"`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the console has %q", tail)
		}
	}
}

// TestLogLevels: the console gets what the level lets through.
func TestLogLevels(t *testing.T) {
	for level, want := range map[string][]string{
		"trace": {"TRACE", "DEBG", "WARN"},
		"debug": {"DEBG", "WARN"},
		"warn":  {"WARN"},
		"error": nil,
	} {
		t.Run(level, func(t *testing.T) {
			v := agentvm.Boot(t, agentvm.Options{Params: []string{"agent.log=" + level, "agent.nonsense=1"}}).Sandbox()
			if _, err := v.Agent.DestroySandbox(t.Context(), &agentpb.DestroySandboxRequest{}); err != nil {
				t.Error(err)
			}
			<-v.Machine.Done()
			got := map[string]bool{}
			for line := range strings.Lines(v.Machine.ConsoleTail()) {
				if i := strings.Index(line, `{"msg":`); i >= 0 {
					got[parse(t, strings.TrimSpace(line[i:])).Level] = true
				}
			}
			for _, l := range want {
				if !got[l] {
					t.Errorf("there is no %s", l)
				}
				delete(got, l)
			}
			if len(got) > 0 {
				t.Errorf("there is %v too", got)
			}
		})
	}
}
