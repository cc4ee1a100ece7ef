package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kata-image": main})
}

// The scripts get a static program for an agent in $AGENT, and a miniature of
// a kernel source in $SOURCE.
func TestScripts(t *testing.T) {
	dir := t.TempDir()
	agent, source := dir+"/agent", dir+"/linux.tar.xz"
	execute(t, ".", "go", "build", "-o", agent, "testdata/agent.go")
	execute(t, "testdata", "tar", "-cJf", source, "miniature")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("AGENT", agent)
			e.Setenv("SOURCE", source)
			return nil
		},
	})
}

func execute(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}
