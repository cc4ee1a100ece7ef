//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata/host/config"
	"kata/test/harness"
)

// A pod's annotation names another configuration file: one below a folder that the
// operator lists takes effect, any other fails the pod and is not quoted.
func TestConfigPathAnnotation(t *testing.T) {
	const secret = "hunter2"
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/run", "kata-e2e-pods") // root's alone, as all above it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	marked := repo.KataConfig(map[string]string{"kernel_params": `"operator.marker=` + secret + `"`})
	listed := repo.KataConfig(nil) + fmt.Sprintf("[runtime]\nannotation_config_folders = [%q]\n", dir)
	annotate := func(t *test, operator, path string, command ...string) harness.Container {
		c := t.withConfigFile(t.container(command...), operator)
		c.Flags = append(c.Flags, "--annotation", config.AnnotationPath+"="+path)
		return c
	}
	file := func(t *test, name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	kata(t, "a file below a folder of the list", func(t *test) {
		out := node.Run(t.ctx, annotate(t, listed, file(t, "good.toml", marked, 0o644), "cat", "/proc/cmdline"))
		if out.Err != nil || !strings.Contains(out.Stdout, secret) {
			t.Errorf("the guest's command line: %q, %v, %s", out.Stdout, out.Err, out.Stderr)
		}
	})
	for _, tt := range []struct{ name, operator, file, text string }{
		{"no folder is listed", repo.KataConfig(nil), "pod.toml", marked},
		{"no configuration at all", listed, "shadow", "root:" + secret + ":0:0\n"},
		{"a key that nobody knows", listed, "key.toml", "[runtime]\n" + secret + " = \"" + secret + "\"\n"},
		{"a VMM that is not there", listed, "vmm.toml", "[hypervisor.qemu]\npath = \"/no/" + secret + "\"\n"},
	} {
		kata(t, tt.name, func(t *test) {
			out := node.Run(t.ctx, annotate(t, tt.operator, file(t, tt.file, tt.text, 0o644), "true"))
			t.wantOneLine(out, config.AnnotationPath)
			if strings.Contains(out.Stderr, secret) {
				t.Errorf("the error quotes the file: %s", out.Stderr)
			}
		})
	}
	kata(t, "a file that others can write", func(t *test) {
		out := node.Run(t.ctx, annotate(t, listed, file(t, "loose.toml", marked, 0o666), "true"))
		t.wantOneLine(out, config.AnnotationPath, "can be written by others")
	})
	kata(t, "a file in no folder of the list", func(t *test) {
		out := node.Run(t.ctx, annotate(t, listed, "/etc/shadow", "true"))
		t.wantOneLine(out, config.AnnotationPath, "/etc/shadow")
	})
}

func TestManagersThatDisagreeAreAnError(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.container("true")
		c.Flags = append(c.Flags,
			"--annotation", "io.kubernetes.cri.container-type=sandbox",
			"--annotation", "io.kubernetes.cri-o.ContainerType=container",
			"--annotation", "io.kubernetes.cri-o.SandboxID=another")
		t.wantOneLine(node.Run(t.ctx, c), "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "disagree")
	})
}
