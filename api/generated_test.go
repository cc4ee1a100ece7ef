package api_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGenerated fails when the schema, the generator or a generated file was
// changed and go generate was not run. It compares hashes; tools/protogen
// -check generates again and compares that.
func TestGenerated(t *testing.T) {
	const root = ".."
	sums, err := os.Open("generated.sum")
	if err != nil {
		t.Fatal(err)
	}
	defer sums.Close()
	listed := make(map[string]bool)
	for lines := bufio.NewScanner(sums); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			t.Fatalf("generated.sum: malformed line %q", lines.Text())
		}
		listed[name] = true
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		} else if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != sum {
			t.Errorf("%s has changed: run go generate ./api/", name)
		}
	}
	for _, pattern := range []string{"api/proto/*.proto", "api/*/*.pb.go", "tools/protogen/*.go", "tools/protogen/go.mod"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) == 0 {
			t.Errorf("no file matches %s", pattern)
		}
		for _, path := range paths {
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			if !listed[name] {
				t.Errorf("%s is not from the generator's last run: run go generate ./api/", name)
			}
		}
	}
}
