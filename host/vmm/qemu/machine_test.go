package qemu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, errors.New("the test's limit"))
	t.Cleanup(cancel)
	return ctx
}

func TestStartFails(t *testing.T) {
	for behaviour, want := range map[string][]string{
		"refuses":        {"start machine pod", "exit status 1", "no such device: flux capacitor", "booting refuses"},
		"ends":           {"QEMU ended with status 0"},
		"is mute":        {"greeting", "the test's limit", "booting is mute"},
		"talks nonsense": {"qmp"},
		"is paused":      {`status is "prelaunch"`},
	} {
		t.Run(behaviour, func(t *testing.T) {
			m := fakeMachine(t, behaviour)
			ctx := within(t, time.Minute)
			if behaviour == "is mute" {
				ctx = untilConsole(ctx, m, "booting is mute")
			}
			err := m.Start(ctx)
			wantError(t, err, want...)
			select {
			case <-m.Done():
			default:
				t.Error("Done is open after Start has failed")
			}
			if got := m.Err(); got == nil || got.Error() != err.Error() {
				t.Errorf("Err = %v, Start = %v", got, err)
			}
			if pids := m.Pids(); len(pids) != 0 {
				t.Errorf("Pids = %v", pids)
			}
		})
	}
}

// untilConsole returns a context that ends when the console of m says text.
func untilConsole(ctx context.Context, m *Machine, text string) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for ctx.Err() == nil && !strings.Contains(m.ConsoleTail(), text) {
			time.Sleep(time.Millisecond) // nothing tells of new lines
		}
		cancel(errors.New("the test's limit"))
	}()
	return ctx
}

func TestStartFailsWithoutConsoleFile(t *testing.T) {
	spec, cfg := sound(t)
	spec.ConsoleFile = "/nowhere/console.log"
	wantError(t, newMachine(t, spec, cfg).Start(within(t, time.Minute)), "console file", "/nowhere/console.log")

	// A link that someone laid there is not followed.
	spec, cfg = sound(t)
	spec.ConsoleFile = filepath.Join(spec.Dir, "console.log")
	if err := os.Symlink(spec.Kernel, spec.ConsoleFile); err != nil {
		t.Fatal(err)
	}
	wantError(t, newMachine(t, spec, cfg).Start(within(t, time.Minute)), "console file")
}

func TestStartFailsWhenQEMUCannotBeRun(t *testing.T) {
	spec, cfg := sound(t)
	if err := os.WriteFile(cfg.Path, []byte("#!/nowhere/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantError(t, newMachine(t, spec, cfg).Start(within(t, time.Minute)), cfg.Path, "no such file")
}

func TestDeathOfARunningMachine(t *testing.T) {
	for behaviour, want := range map[string][]string{
		"has an internal error": {"machine pod died", "QEMU stopped the guest: internal-error"},
		"sees a panic":          {"the guest panicked"},
		"crashes":               {"exit status 134", "assertion failed", "booting crashes"},
		"hangs up":              {"closed its control channel"},
	} {
		t.Run(behaviour, func(t *testing.T) {
			m := fakeMachine(t, behaviour)
			if err := m.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			_ = m.Check(within(t, 20*time.Second)) // brings it about
			select {
			case <-m.Done():
			case <-within(t, 20*time.Second).Done():
				t.Fatal("not noticed")
			}
			wantError(t, m.Err(), want...)
		})
	}
}

func TestPauseByRequestIsNoDeath(t *testing.T) {
	m := fakeMachine(t, "is paused by somebody")
	if err := m.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := m.Check(within(t, 20*time.Second)); err != nil {
		t.Errorf("Check while it runs: %v", err)
	}
	wantError(t, m.Check(within(t, 20*time.Second)), `status is "paused"`)
	if err := m.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if err := m.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func TestStopOfAMachineThatDoesNotQuit(t *testing.T) {
	m := fakeMachine(t, "does not quit")
	if err := m.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(within(t, 100*time.Millisecond)); err != nil {
		t.Error(err)
	}
	select {
	case <-m.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if err := m.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func TestStopInterruptsAStartThatWaits(t *testing.T) {
	m := fakeMachine(t, "is mute")
	started := make(chan error, 1)
	go func() { started <- m.Start(within(t, time.Minute)) }()
	if err := m.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if err := <-started; err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("Start = %v", err)
	}
	if err := m.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func TestConsoleIsKeptAndMadePrintable(t *testing.T) {
	spec, cfg := sound(t)
	spec.ConsoleFile = filepath.Join(spec.Dir, "console.log")
	script := "#!/bin/sh\nprintf 'first\\r\\n\\033[31mred\\r\\n' >&4; exit 3\n"
	if err := os.WriteFile(cfg.Path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, spec, cfg)
	wantError(t, m.Start(within(t, 20*time.Second)), "exit status 3", "first\n[31mred")
	if raw, err := os.ReadFile(spec.ConsoleFile); err != nil || string(raw) != "first\r\n\x1b[31mred\r\n" {
		t.Errorf("console file: %q, %v", raw, err)
	}
}
