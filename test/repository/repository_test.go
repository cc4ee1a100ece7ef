package repository

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"kata/test/harness"
)

func root(t *testing.T) string {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return repo.Root()
}

// agentBudget is SPECIFICATION.md's: 3.2 MB. Nearly all of the image is the agent, so
// this is also what every VM reads at its start.
const agentBudget = 3_200_000

func TestAgentFitsItsBudget(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "kata-agent")
	// As users build it.
	cmd := exec.Command("make", "-s", "build", "COMMANDS=kata-agent", "BIN="+filepath.Dir(agent))
	cmd.Dir = root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	info, err := os.Stat(agent)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > agentBudget {
		t.Errorf("the agent has %d bytes, more than %d", info.Size(), agentBudget)
	}
	t.Logf("the agent has %d bytes of %d", info.Size(), agentBudget)
}

// markdown returns the repository's own documents.
func markdown(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "*.md")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestDocumentsLinkToFilesThatExist(t *testing.T) {
	for _, doc := range markdown(t) {
		text, err := os.ReadFile(filepath.Join(root(t), doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target := filepath.Join(root(t), filepath.Dir(doc), m[1])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}

func TestEveryDependencyIsExplained(t *testing.T) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{if not .Main}}{{if not .Indirect}}{{.Path}}{{end}}{{end}}", "all")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range strings.Fields(string(out)) {
		if !strings.Contains(string(text), module) {
			t.Errorf("docs/dependencies.md does not say why there is %s", module)
		}
	}
}

// maxMain is the most lines a program's main.go may have: flags, wiring and the
// exit status. What it does belongs in a package that can be tested.
const maxMain = 60

func TestMainsOnlyWire(t *testing.T) {
	mains, err := filepath.Glob(filepath.Join(root(t), "cmd", "*", "main.go"))
	if err != nil || len(mains) == 0 {
		t.Fatalf("found %d programs: %v", len(mains), err)
	}
	for _, path := range mains {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > maxMain {
			t.Errorf("%s has %d lines, more than %d", path, n, maxMain)
		}
	}
}

// What people type is in cli/: a command of theirs is nothing but its main.go.
func TestCommandsOfPeopleLiveInCLI(t *testing.T) {
	for _, name := range []string{"kata-runtime", "kata-agent-ctl", "kata-image"} {
		files, err := filepath.Glob(filepath.Join(root(t), "cmd", name, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("found %d files of %s: %v", len(files), name, err)
		}
		for _, path := range files {
			if base := filepath.Base(path); base != "main.go" && !strings.HasSuffix(base, "_test.go") {
				t.Errorf("%s belongs in cli/", path)
			}
		}
	}
}

var packageComment = regexp.MustCompile(`(?m)^// (Package|Command) \S+`)

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "*.go")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	commented := make(map[string]bool)
	for _, file := range strings.Fields(string(out)) {
		dir := filepath.Dir(file)
		if strings.Contains(file, "testdata/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), file))
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		commented[dir] = commented[dir] || packageComment.Match(text)
	}
	for dir, ok := range commented {
		if !ok {
			t.Errorf("no file in %s has a package comment", dir)
		}
	}
}
