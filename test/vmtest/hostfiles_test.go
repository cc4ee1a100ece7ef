package main

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func packageWith(t *testing.T, lines string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hostFilesName), []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestProgramsComeWithTheirLibraries(t *testing.T) {
	files := map[string]string{}
	if err := hostFiles(packageWith(t, "/usr/bin/env\n/etc/passw?\n"), files); err != nil {
		t.Fatal(err)
	}
	if files["/bin/env"] == "" || files["/etc/passwd"] == "" {
		t.Errorf("files %v", files)
	}
	for _, part := range []string{"/libc.so", "/ld-linux"} {
		has := func(name string) bool { return strings.Contains(name, part) }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(files)), has) {
			t.Errorf("no %s among %v", part, files)
		}
	}
}

func TestFilesThatAreNotThereAreNamed(t *testing.T) {
	err := hostFiles(packageWith(t, "/nowhere/*\n"), map[string]string{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/*") {
		t.Error(err)
	}
	if err := hostFiles(t.TempDir(), nil); err != nil {
		t.Errorf("a package that needs nothing: %v", err)
	}
}
