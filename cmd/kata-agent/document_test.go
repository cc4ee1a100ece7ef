package main

import (
	"os"
	"regexp"
	"testing"

	"kata/api/ttrpc"
	"kata/test/agentvm"
)

// malformed is a request that no handler gets to see.
var malformed = agentvm.Raw("\xff")

// TestTheDocumentListsEveryCall compares docs/agent-api.md with the schema and
// with what the agent has handlers for.
func TestTheDocumentListsEveryCall(t *testing.T) {
	text, err := os.ReadFile("../../docs/agent-api.md")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| (?:yes|stub|no) \\| (?:yes|no) \\|.*\\|$").FindAllStringSubmatch(string(text), -1) {
		if said[m[1]] != "" {
			t.Errorf("%s is there twice", m[1])
		}
		said[m[1]] = m[2]
	}
	client := startAgent(t).client
	for _, m := range agentvm.Methods() {
		want := map[string]ttrpc.Code{"yes": ttrpc.InvalidArgument, "no": ttrpc.Unimplemented}[said[m.Name]]
		if want == ttrpc.OK {
			t.Errorf("%s is missing, or is neither yes nor no: %q", m.Name, said[m.Name])
			continue
		}
		if got := ttrpc.CodeOf(m.Call(t.Context(), client, malformed)); got != want {
			t.Errorf("%s is said to be here: %s; a malformed request is answered with %v, not %v", m.Name, said[m.Name], got, want)
		}
		delete(said, m.Name)
	}
	for name := range said {
		t.Errorf("the schema has no %s", name)
	}
}
