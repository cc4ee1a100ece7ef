//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kata/image/initrd"
	"kata/test/harness"
)

// bootDeadline is what the tests configure; a real boot under emulation takes
// about a second.
const bootDeadline = 15 * time.Second

// withConfig makes the container start with a configuration of its own;
// settings are keys of [hypervisor.qemu].
func (t *test) withConfig(c harness.Container, settings map[string]string) harness.Container {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	agent := fmt.Sprintf("[agent.kata]\ndial_timeout = %d\n", int(bootDeadline.Seconds()))
	return t.withConfigFile(c, repo.KataConfig(settings)+agent)
}

func (t *test) withConfigFile(c harness.Container, text string) harness.Container {
	t.Helper()
	file := filepath.Join(t.TempDir(), "configuration.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Flags = append(c.Flags, "--runtime-config-path", file)
	return c
}

func (t *test) file(name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// silentInitrd boots into a busybox that waits for ever.
func silentInitrd(t *test) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = initrd.Write(&b, []initrd.Entry{
		initrd.Dir("dev", 0o755),
		initrd.CharDevice("dev/console", 0o600, 5, 1),
		initrd.File("init", 0o755, program),
	})
	if err != nil {
		t.Fatal(err)
	}
	return t.file("silent.img", b.Bytes())
}

func TestGuestThatNeverComesUpFailsWithinTheDeadlineAndShowsItsConsole(t *testing.T) {
	garbage := make([]byte, 1<<20)
	if _, err := rand.Read(garbage); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		settings func(t *test) map[string]string
		console  string // a part of what the guest said
	}{
		{
			name: "a kernel that panics because there is no init",
			settings: func(*test) map[string]string {
				return map[string]string{"kernel_params": `"rdinit=/nonexistent init=/nonexistent"`}
			},
			console: "panic",
		},
		{
			name: "an initrd that is garbage",
			settings: func(t *test) map[string]string {
				return map[string]string{"initrd": strconv.Quote(t.file("garbage.img", garbage))}
			},
			console: "panic",
		},
		{
			name: "an initrd whose init is not the agent",
			settings: func(t *test) map[string]string {
				return map[string]string{"initrd": strconv.Quote(silentInitrd(t))}
			},
			console: "init",
		},
		{
			name: "a kernel that is garbage",
			settings: func(t *test) map[string]string {
				return map[string]string{"kernel": strconv.Quote(t.file("garbage.kernel", garbage))}
			},
			console: "garbage.kernel is neither",
		},
	}
	for _, tt := range tests {
		kata(t, tt.name, func(t *test) {
			c := t.withConfig(t.container("true"), tt.settings(t))
			r := node.Run(t.ctx, c)
			if r.Code == 0 {
				t.Error("ctr ended with 0")
			}
			if !strings.Contains(r.Stderr, tt.console) {
				t.Errorf("the error does not hold %q: %s", tt.console, r.Stderr)
			}
			if limit := bootDeadline + promptly; r.Elapsed > limit {
				t.Errorf("ctr ended after %v, want at most %v", r.Elapsed, limit)
			}
			t.clear(c.ID)
			t.Logf("the user sees: %s", r.Stderr)
		})
	}
}
