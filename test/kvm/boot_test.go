package main

import (
	"strings"
	"testing"
)

func TestTheExitStatusIsReadFromTheConsole(t *testing.T) {
	var out strings.Builder
	status, err := readStatus(strings.NewReader("booting\r\n--- PASS\r\nkata-kvm-exit-status: 3\r\nlate\r\n"), &out)
	if err != nil || status != 3 {
		t.Errorf("status %d, %v", status, err)
	}
	if out.String() != "booting\n--- PASS\n" {
		t.Errorf("output %q", out.String())
	}
	if _, err := readStatus(strings.NewReader("Kernel panic"), &out); err == nil {
		t.Error("a machine that died counts as one that has ended")
	}
}
