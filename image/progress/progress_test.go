package progress

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressPrintsALineNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, false, "compiling", "steps")
		for i := range 100 {
			time.Sleep(time.Second)
			p.At(i*2, 150)
		}
		p.End(true)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if lines[0] != "compiling" || lines[1] != "compiling: 0% (0 of about 150 steps, 1s)" || lines[2] != "compiling: 6% (10 of about 150 steps, 6s)" {
			t.Errorf("lines %q", lines)
		}
		last := lines[len(lines)-1]
		if last != "compiling: done in 1m40s" || len(lines) < 12 || len(lines) > 22 {
			t.Errorf("%d lines, last %q", len(lines), last)
		}
		if strings.Contains(out.String(), "100%") || !strings.Contains(out.String(), "99%") {
			t.Errorf("more steps than estimated:\n%s", &out)
		}
	})
}

func TestProgressWritesOverALineOfATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, true, "compiling", "steps")
		for i := range 10 {
			time.Sleep(time.Second)
			p.At(i, 10)
		}
		p.End(true)
		if n := strings.Count(out.String(), "\n"); n != 1 || !strings.HasSuffix(out.String(), "\r\x1b[Kcompiling: done in 10s\n") {
			t.Errorf("%d line ends: %q", n, &out)
		}
	})
}
