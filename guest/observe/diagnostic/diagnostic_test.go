package diagnostic

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// in is a container with a root file system and nothing else.
func in(root string) *ocispec.Container {
	return &ocispec.Container{Plan: plan.Plan{Root: plan.Root{Path: root}}}
}

func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, root+"/dev/termination-log", "in the root")
	write(t, root+"/var/last", "named by the annotation")
	secret := write(t, dir+"/secret", "of the guest")
	if err := os.Symlink(secret, root+"/dev/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../secret", root+"/dev/up"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(root+"/dev/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := write(t, dir+"/mounted", "mounted")
	spec := func(path string, mounts ...plan.Mount) *ocispec.Container {
		c := in(root)
		c.Plan.Mounts, c.Plan.State.Annotations = mounts, map[string]string{"io.kubernetes.container.terminationMessagePath": path}
		return c
	}
	bind := func(target, source string) plan.Mount {
		return plan.Mount{Destination: target, Source: source, Type: "bind"}
	}
	for name, tt := range map[string]struct {
		spec       *ocispec.Container
		want, fail string
	}{
		"in the root file system": {in(root), "in the root", ""},
		"named by the annotation": {spec("/var/last"), "named by the annotation", ""},
		"mounted":                 {spec("/m", bind("/m/", mounted)), "mounted", ""},
		"not there":               {spec("/var/none"), "", ""},
		"a mount that is gone":    {spec("/m", bind("/m", dir+"/gone")), "", ""},
		"a link out of the root":  {spec("/dev/link"), "", ""},
		"a link up":               {spec("/dev/up"), "", ""},
		"a path up":               {spec("../../secret"), "", ""},
		"a pipe":                  {spec("/dev/pipe"), "", "termination message /dev/pipe: it is not a regular file"},
		"a folder":                {spec("/dev"), "", "termination message /dev: it is not a regular file"},
		"a mounted folder":        {spec("/m", bind("/m", dir)), "", "termination message /m: it is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := TerminationMessage(tt.spec)
			if got != tt.want || (err == nil) != (tt.fail == "") || err != nil && err.Error() != tt.fail {
				t.Errorf("got %q, %v; want %q, %s", got, err, tt.want, tt.fail)
			}
		})
	}
}

func TestLongMessagesAreCutAtTheirBeginning(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/dev/termination-log", strings.Repeat("x", Limit)+"\xff end")
	got, err := TerminationMessage(in(root))
	if err != nil || !strings.HasSuffix(got, "x\ufffd end") || !utf8.ValidString(got) || len(got) > Limit+2 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
