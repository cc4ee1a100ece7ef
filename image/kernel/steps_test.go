package kernel

import (
	"bytes"
	"strings"
	"testing"

	"kata/image/progress"
)

func TestStepsAreCountedAcrossWrites(t *testing.T) {
	var log, out bytes.Buffer
	s := &stepCounter{log: &log, total: 3, progress: progress.New(&out, false, "x", "steps")}
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
