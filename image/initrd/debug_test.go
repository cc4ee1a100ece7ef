package initrd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata/image/cache"
)

// busybox returns the distribution's, which CI installs.
func busybox(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("a static busybox is needed (Debian: busybox-static): %v", err)
	}
	return path
}

func TestTheDebugVariantHasAShell(t *testing.T) {
	agent := build(t)
	var images [2][]byte
	for i := range images {
		store, err := cache.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := Build(t.Context(), store, Source{Agent: agent, Busybox: busybox(t)}, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(e.Path(Image)); err != nil {
			t.Fatal(err)
		}
		if _, err := Lookup(t.Context(), store, Source{Agent: agent}); err == nil {
			t.Error("the store has the image without a shell too")
		}
		found, err := Lookup(t.Context(), store, Source{Agent: agent, Busybox: busybox(t)})
		if err != nil || found.Key != e.Key {
			t.Errorf("looked up %v, %v", found, err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds differ")
	}
	dir := t.TempDir()
	cpio(t, dir, images[0], "-id", "--quiet", "bin/*", "bin", "init")
	out, err := exec.Command(filepath.Join(dir, "bin/sh"), "-c", "echo $((6*7))").Output()
	if err != nil || string(out) != "42\n" {
		t.Errorf("the shell says %q, %v", out, err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "bin/ls")); err != nil || target != "busybox" {
		t.Errorf("/bin/ls leads to %q, %v", target, err)
	}
}

func TestWhatIsNoBusybox(t *testing.T) {
	agent := build(t)
	for name, tt := range map[string]struct{ path, want string }{
		"a missing file":           {"/no/busybox", "read the busybox: open /no/busybox: no such file or directory"},
		"a program with libraries": {"/bin/ls", "busybox /bin/ls: dynamically linked"},
		"another static program":   {agent, "busybox " + agent + ": it has no shell"},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := cache.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = Build(t.Context(), store, Source{Agent: agent, Busybox: tt.path}, func(string) {})
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
