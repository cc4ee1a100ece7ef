package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheConsolesFilesTakeTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	c, err := openConsoleFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 99_999) + "\n")
	for range 3*consoleFileSize/len(line) + 1 {
		if n, err := c.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	_, _ = c.Write([]byte("the last"))
	c.Close()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > consoleFileSize {
			t.Errorf("%s holds more than %d bytes, %v", e.Name(), consoleFileSize, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(b), "the last") {
		t.Errorf("the newer one ends otherwise, %v", err)
	}
	if b, err := os.ReadFile(path + ".1"); err != nil || len(b) < consoleFileSize/2 {
		t.Errorf("the older one has %d bytes, %v", len(b), err)
	}
}
