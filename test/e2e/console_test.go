//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/host/sandbox"
	"kata/host/vsock"
	"kata/test/harness"
	"kata/test/pace"
)

// consoleLimit bounds what a session takes, on a machine of any speed.
const consoleLimit = time.Minute

// withConsole lets the container's guest have a debug console.
func (t *test) withConsole(c harness.Container, initrd string) harness.Container {
	t.Helper()
	repo := repository(t)
	settings := map[string]string{}
	if initrd != "" {
		settings["initrd"] = fmt.Sprintf("%q", initrd)
	}
	return t.withConfigFile(c, repo.KataConfig(settings)+"[agent.kata]\ndebug_console_enabled = true\n")
}

// debugImage builds the image's debug variant as an operator does.
func (t *test) debugImage() string {
	t.Helper()
	repo := repository(t)
	dir := t.TempDir()
	out, err := exec.CommandContext(t.ctx, filepath.Join(repo.Bin(), "kata-image"), "initrd",
		"-variant", "debug", "-agent", filepath.Join(repo.Bin(), "kata-agent"), "-cache", dir, "-o", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "kata-initrd-debug.img")
}

// console connects to the debug console of a pod.
func (t *test) console(id string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, pace.Of(consoleLimit))
	defer cancel()
	pod, err := sandbox.Lookup("/run/kata", id)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&vsock.Hybrid{Path: pod.AgentSocket()}).Dial(ctx, api.PortConsole)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(pace.Of(consoleLimit))); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestDebugConsoleOfAPod(t *testing.T) {
	kata(t, "kata", func(t *test) {
		id := t.detach(t.withConsole(t.sh("exec sleep 1000"), t.debugImage()))
		first, second := t.console(id), t.console(id)
		for _, session := range []net.Conn{second, first} {
			fmt.Fprintf(session, "echo \"i\"nit is $(cat /proc/1/comm), $(ps | grep -c '[s]leep 1000') container\n")
			lines := bufio.NewScanner(session)
			found := false
			for !found && lines.Scan() {
				found = strings.HasPrefix(lines.Text(), "init is init, 1 container")
			}
			if !found {
				t.Errorf("no answer: %v", lines.Err())
			}
		}
		// A third one, as an operator opens it.
		ctl := exec.CommandContext(t.ctx, filepath.Join(repository(t).Bin(), "kata-agent-ctl"), "console", "--sandbox", id)
		ctl.Stdin = strings.NewReader("echo \"a\"nswer $((6*7))\n")
		if out, err := ctl.CombinedOutput(); err != nil || !strings.Contains(string(out), "answer 42\r\n") {
			t.Errorf("kata-agent-ctl console: %q, %v", out, err)
		}
	})
}

func repository(t *test) harness.Repo {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func TestDebugConsoleOfAGuestWithoutAShell(t *testing.T) {
	kata(t, "kata", func(t *test) {
		id := t.detach(t.withConsole(t.sh("exec sleep 1000"), ""))
		text, err := io.ReadAll(t.console(id))
		if err != nil || !strings.Contains(string(text), "this guest has no shell") {
			t.Errorf("it says %q, %v", text, err)
		}
	})
}
