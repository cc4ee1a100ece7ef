package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake writes a program that stands in for QEMU: descriptor 3 is the port, 4
// the console.
func fake(t *testing.T, script string) Config {
	t.Helper()
	name := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return Config{QEMU: name, Accel: "tcg"}
}

func TestOutputAndStatus(t *testing.T) {
	c := fake(t, `printf 'O\003\000\000\000hi\nX\004\000\000\000\052\000\000\000' >&3; exec sleep 1000`)
	var out bytes.Buffer
	c.Output = &out
	status, err := Run(t.Context(), c)
	if err != nil || status != 42 || out.String() != "hi\n" {
		t.Errorf("status %d, output %q, %v", status, &out, err)
	}
}

func TestErrorsCarryTheConsole(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"a panic": {
			`printf 'booting\r\nKernel panic\r\n' >&4; exit 0`,
			"the VM ended without an exit status\nThe console ended with:\nbooting\nKernel panic",
		},
		"a QEMU that does not start": {
			`echo 'qemu: no such machine' >&2; exit 1`,
			"the VM ended without an exit status (QEMU: exit status 1)\nQEMU wrote:\nqemu: no such machine",
		},
		"an init that cannot": {
			`printf 'F\004\000\000\000oops' >&3; exec sleep 1000`,
			"in the guest: oops",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), fake(t, tt.script))
			var e *Error
			if !errors.As(err, &e) || err.Error() != tt.want {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
}

func TestAHangEndsAtTheDeadline(t *testing.T) {
	cause := errors.New("too long")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
	defer cancel()
	_, err := Run(ctx, fake(t, `echo stuck >&4; exec sleep 1000`))
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("got %v", err)
	}
}

func TestNoQEMU(t *testing.T) {
	_, err := Run(t.Context(), Config{QEMU: "/no/qemu", Accel: "tcg"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/no/qemu") {
		t.Errorf("got %v", err)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	var tl tail
	for range 10000 {
		if _, err := tl.Write([]byte("line\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tl.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(tl.String(), "\n")
	if len(lines) != tailLines || lines[len(lines)-1] != "last" || lines[0] != "line" {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}
