package kernel

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
		p := newProgress(&out, false, "compiling", "steps")
		for i := range 100 {
			time.Sleep(time.Second)
			p.at(i*2, 150)
		}
		p.end(true)
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
		p := newProgress(&out, true, "compiling", "steps")
		for i := range 10 {
			time.Sleep(time.Second)
			p.at(i, 10)
		}
		p.end(true)
		if n := strings.Count(out.String(), "\n"); n != 1 || !strings.HasSuffix(out.String(), "\r\x1b[Kcompiling: done in 10s\n") {
			t.Errorf("%d line ends: %q", n, &out)
		}
	})
}

func TestStepsAreCountedAcrossWrites(t *testing.T) {
	var log, out bytes.Buffer
	s := &stepCounter{log: &log, total: 3, progress: newProgress(&out, false, "x", "steps")}
	for _, part := range []string{"  CC     a.o\n  LD", "   b.o\nmake[1]: Entering\n", "a.c:1: error: x\n  AR c.a\nlast"} {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if s.done != 3 || s.tail() != "make[1]: Entering\na.c:1: error: x\nlast" {
		t.Errorf("%d steps, tail %q", s.done, s.tail())
	}
	if !strings.HasPrefix(log.String(), "  CC     a.o\n  LD   b.o\n") {
		t.Errorf("log %q", &log)
	}
}
