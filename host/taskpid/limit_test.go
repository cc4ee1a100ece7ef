package taskpid

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLimitMemoryWritesTheFileThatIsThere(t *testing.T) {
	for _, file := range []string{"memory.max", "memory.limit_in_bytes"} {
		dir := t.TempDir()
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte("max"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &Cgroup{dirs: []string{t.TempDir(), dir}}
		for _, limit := range []int64{32 << 20, 0, -1} {
			c.LimitMemory(limit)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "33554432" {
			t.Errorf("%s holds %q, %v", file, b, err)
		}
	}
	(*Cgroup)(nil).LimitMemory(1)
}
