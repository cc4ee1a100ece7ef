package initrd

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/image/cache"
)

func archiveOf(t *testing.T, entries []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheOrderOfEntriesDoesNotMatter(t *testing.T) {
	entries := Guest([]byte("agent"))
	first := archiveOf(t, entries)
	slices.Reverse(entries)
	if !bytes.Equal(first, archiveOf(t, entries)) {
		t.Error("archives differ")
	}
}

func TestCpioReadsTheArchive(t *testing.T) {
	archive := archiveOf(t, append(Guest([]byte("agent")), Link("bin", "/usr/bin"), File("empty", 0o600, nil)))
	if len(archive)%512 != 0 {
		t.Errorf("%d bytes", len(archive))
	}
	list := cpio(t, t.TempDir(), archive, "-tv", "--numeric-uid-gid", "--quiet")
	var got []string
	for line := range strings.Lines(list) {
		got = append(got, strings.Join(strings.Fields(strings.ReplaceAll(line, ",", " , ")), " "))
	}
	want := []string{
		"lrwxrwxrwx 1 0 0 8 Jan 1 1970 bin -> /usr/bin",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
		"crw------- 1 0 0 5 , 1 Jan 1 1970 dev/console",
		"-rw------- 1 0 0 0 Jan 1 1970 empty",
		"-rwxr-xr-x 1 0 0 5 Jan 1 1970 init",
		"dr-xr-xr-x 2 0 0 0 Jan 1 1970 proc",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 run",
		"dr-xr-xr-x 2 0 0 0 Jan 1 1970 sys",
		"drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cpio -tv (-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	cpio(t, dir, archive, "-id", "--quiet", "init", "bin")
	if text, err := os.ReadFile(filepath.Join(dir, "init")); err != nil || string(text) != "agent" {
		t.Errorf("extracted init: %q, %v", text, err)
	}
}

func cpio(t *testing.T, dir string, archive []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("cpio", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("cpio %v: %v: %s", args, err, &stderr)
	}
	return string(out)
}

func TestEntriesTheKernelWouldDropAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		entries []Entry
		want    string
	}{
		"an absolute path":         {[]Entry{File("/init", 0o755, nil)}, `archive entry "/init": not a clean relative path`},
		"a path out of the root":   {[]Entry{File("../init", 0o755, nil)}, `archive entry "../init": not a clean relative path`},
		"an empty path":            {[]Entry{File("", 0o755, nil)}, `archive entry "": not a clean relative path`},
		"a path given twice":       {[]Entry{File("a", 0o755, nil), Dir("a", 0o755)}, `archive entry a: given twice`},
		"a folder that is missing": {[]Entry{File("a/b", 0o755, nil)}, `archive entry a/b: its directory is not in the archive`},
		"a file for a folder":      {[]Entry{File("a", 0o755, nil), File("a/b", 0o755, nil)}, `archive entry a/b: its directory is not in the archive`},
		"a type it cannot be":      {[]Entry{{Path: "a", Mode: 0o644}}, `archive entry a: mode 0644 is of no known type`},
		"nothing":                  {nil, "archive without entries"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Write(&bytes.Buffer{}, tt.entries); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func build(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "agent")
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", name}, args...), source)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

func TestBuildIsReproducibleAndCached(t *testing.T) {
	agent := build(t)
	var images [2][]byte
	for i := range images {
		store, err := cache.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{false, true} {
			e, cached, err := Build(context.Background(), store, Source{Agent: agent}, func(string) {})
			if err != nil || cached != want {
				t.Fatalf("cached %v, want %v: %v", cached, want, err)
			}
			if images[i], err = os.ReadFile(e.Path(Image)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds differ")
	}
}

func TestAgentsThatCannotBeInit(t *testing.T) {
	text := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ agent, want string }{
		"a missing file":       {"/no/agent", "read the agent: open /no/agent: no such file or directory"},
		"a script":             {text, "agent " + text + ": not an ELF program"},
		"a program with ld.so": {"/bin/ls", "agent /bin/ls: dynamically linked, and the guest has no libraries"},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := cache.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = Build(t.Context(), store, Source{Agent: tt.agent}, func(string) {})
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
