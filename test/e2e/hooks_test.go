//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kata/image/initrd"
	"kata/test/harness"
)

// withHooks makes the container's guest one that has busybox and scripts, by
// their paths below /hooks.
func (t *test) withHooks(c harness.Container, scripts map[string]string) harness.Container {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	agent, err := os.ReadFile(filepath.Join(repo.Bin(), "kata-agent"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := harness.Busybox("")
	if err != nil {
		t.Fatal(err)
	}
	var busybox []byte
	for _, f := range image.Files {
		if f.Name == "bin/busybox" {
			busybox = f.Data
		}
	}
	entries := append(initrd.Guest(agent), initrd.Debug(busybox, []string{"sh", "sed", "echo", "cat", "sleep", "mkdir"})...)
	entries = append(entries, initrd.Dir("hooks", 0o755))
	made := map[string]bool{}
	for path, script := range scripts {
		if dir := filepath.Dir(path); !made[dir] {
			made[dir] = true
			entries = append(entries, initrd.Dir("hooks/"+dir, 0o755))
		}
		entries = append(entries, initrd.File("hooks/"+path, 0o755, []byte("#!/bin/sh\n"+script)))
	}
	var b bytes.Buffer
	if err := initrd.Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return t.withConfig(c, map[string]string{"initrd": strconv.Quote(t.file("hooks.img", b.Bytes())), "guest_hook_path": strconv.Quote("/hooks")})
}

// note is a hook that adds a line to a file in the container's root: its
// arguments and the status that it is told.
const note = `export PATH=/bin
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
status=$(echo "$state" | sed 's/.*"status":"\([^"]*\)".*/\1/')
echo "$0 $1 $status" | sed 's#^.*/##' >>$bundle/rootfs/notes
`

// Hooks of the guest's image, for a container that knows nothing of them.
func TestHooksOfTheGuestRun(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.withHooks(t.sh("cat /notes; until grep -q poststart /notes; do sleep 0.1; done; tail -n 1 /notes"), map[string]string{
			"prestart/20-second": note, "prestart/10-first": note, "createRuntime/a": note, "createContainer/b": note, "poststart/c": note,
			"poststop/d": "exit 1",
		})
		want := "10-first prestart creating\n20-second prestart creating\na createRuntime creating\nb createContainer creating\n"
		r := t.succeed(c)
		if !strings.HasPrefix(r.Stdout, want) || !strings.HasSuffix(r.Stdout, "c poststart running\n") {
			t.Errorf("the hooks left %q, want %q and poststart's", r.Stdout, want)
		}
	})
}

func TestAFailingHookOfTheGuestEndsTheCreation(t *testing.T) {
	kata(t, "with its words", func(t *test) {
		c := t.withHooks(t.container("true"), map[string]string{"createRuntime/no": "echo this will not do >&2; exit 5"})
		t.wantOneLine(node.Run(t.ctx, c), "createRuntime hook /hooks/createRuntime/no: exit status 5: this will not do")
	})
	kata(t, "a folder that is not there", func(t *test) {
		c := t.withConfig(t.container("true"), map[string]string{"guest_hook_path": strconv.Quote("/no/hooks")})
		t.wantOneLine(node.Run(t.ctx, c), `guest_hook_path "/no/hooks"`)
	})
}
