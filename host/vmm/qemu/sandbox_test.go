package qemu

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestFilterAsStrictAsTheBuildTakes starts QEMUs that refuse some of -sandbox.
func TestFilterAsStrictAsTheBuildTakes(t *testing.T) {
	for behaviour, want := range map[string]string{
		"":                    "filter: " + sandboxAll,
		"sets its scheduling": "filter: " + sandboxMost,
		"knows no filter":     "filter: -nam",
	} {
		m := fakeMachine(t, behaviour+" ")
		if behaviour != "" {
			m = fakeMachine(t, behaviour)
		}
		if err := m.Start(within(t, time.Minute)); err != nil {
			t.Errorf("%s: %v", behaviour, err)
			continue
		}
		awaitTail(t, m, want)
	}
}

// TestFilterIsNotWeakened neither against the operator's word, nor after QEMU had
// a guest, which could bring the end about.
func TestFilterIsNotWeakened(t *testing.T) {
	m := fakeMachine(t, "knows no filter")
	m.cfg.Sandbox = "on"
	wantError(t, m.Start(within(t, time.Minute)), "There is no option group")

	m = fakeMachine(t, "is killed by its filter")
	wantError(t, m.Start(within(t, time.Minute)), "bad system call")
	if got := strings.Count(m.ConsoleTail(), "filter: "); got != 1 {
		t.Errorf("QEMU was started %d times", got)
	}
}

func TestFilterSwitchedOff(t *testing.T) {
	m := fakeMachine(t, "is up")
	m.cfg.Sandbox = sandboxOff
	var said strings.Builder
	m.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := m.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	awaitTail(t, m, "filter: -nam")
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "key=seccompsandbox value=off") {
		t.Errorf("the log says %q", got)
	}
}

func awaitTail(t *testing.T, m *Machine, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(m.ConsoleTail(), text); {
		if time.Now().After(deadline) {
			t.Fatalf("the console says %q, not %q", m.ConsoleTail(), text)
		}
		time.Sleep(time.Millisecond) // nothing tells of new lines
	}
}
