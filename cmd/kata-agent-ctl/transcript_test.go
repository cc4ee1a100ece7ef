//go:build vm

package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the answers of this run into docs/agent-ctl.md")

// repository is the root of the repository, absolute.
func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestTranscript runs the commands that docs/agent-ctl.md shows, in one shell,
// and compares their answers with those in the document.
func TestTranscript(t *testing.T) {
	root := repository(t)
	path := filepath.Join(root, "docs/agent-ctl.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, root)
	var out strings.Builder
	inside := false
	var command []string // lines, without their prompts
	flush := func() {
		if len(command) > 0 {
			out.WriteString(sh.run(strings.Join(command, "\n")))
			command = nil
		}
	}
	for line := range strings.Lines(string(text)) {
		switch more, isMore := strings.CutPrefix(line, "> "); {
		case inside && strings.HasPrefix(line, "$ "):
			flush()
			command = []string{strings.TrimSuffix(line[2:], "\n")}
			out.WriteString(line)
		case inside && isMore && len(command) > 0:
			command = append(command, strings.TrimSuffix(more, "\n"))
			out.WriteString(line)
		case inside && !strings.HasPrefix(line, "```"):
			// The answer of before.
		default:
			flush()
			inside = strings.HasPrefix(line, "```console")
			out.WriteString(line)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(stable(string(text)), stable(out.String())); diff != "" && !*update {
		t.Errorf("docs/agent-ctl.md shows other answers (-update writes these):\n%s", diff)
	}
}

// stable hides what differs from run to run, or from one build of the guest to
// the next: versions, ids, times, names of folders, lists of features.
func stable(text string) string {
	for _, volatile := range []string{`(?m)(^ *\w*(version|_handlers|extra_features): .*\n)+`, `[0-9a-f]{64}`, `/tmp/tmp\.\w+`, `\b[0-9]{5,}\b`} {
		text = regexp.MustCompile(volatile).ReplaceAllString(text, "…")
	}
	return text
}

// shell is a bash that runs command after command.
type shell struct {
	*testing.T
	in  io.Writer
	out *bufio.Reader
	n   int
}

func startShell(t *testing.T, dir string) *shell {
	t.Helper()
	program, err := exec.LookPath("kata-agent-ctl")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with what it left in the background
		_ = cmd.Wait()
	})
	sh := &shell{T: t, in: in, out: bufio.NewReader(out)}
	// The program under test, whatever bin/ holds.
	sh.run(fmt.Sprintf("kata-agent-ctl() { %q \"$@\"; }", program))
	return sh
}

// run runs a command and returns what it wrote to both outputs.
func (sh *shell) run(command string) string {
	sh.Helper()
	sh.n++
	mark := fmt.Sprintf("---- end of command %d\n", sh.n)
	if _, err := fmt.Fprintf(sh.in, "%s\nprintf -- %q\n", command, mark); err != nil {
		sh.Fatal(err)
	}
	var answer strings.Builder
	for {
		line, err := sh.out.ReadString('\n')
		if err != nil {
			sh.Fatalf("%s: %v\n%s", command, err, answer.String())
		}
		if strings.HasSuffix(line, mark) {
			return answer.String() + strings.TrimSuffix(line, mark)
		}
		answer.WriteString(line)
	}
}
