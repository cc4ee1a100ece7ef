package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheChangesFitThisGo fails when a new Go needs new changes.
func TestTheChangesFitThisGo(t *testing.T) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := apply(filepath.Join(strings.TrimSpace(string(goroot)), "src"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if !strings.Contains(files[c.file], c.to) {
			t.Errorf("%s: no %q", c.file, c.to)
		}
	}
}

func TestAnUnknownRuntimeIsAnError(t *testing.T) {
	dir := t.TempDir()
	for _, c := range changes {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(c.file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte("package runtime\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := apply(dir); err == nil || len(files) != 0 {
		t.Errorf("files %v, error %v", files, err)
	}
}
