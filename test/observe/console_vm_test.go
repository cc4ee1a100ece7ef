//go:build vm

package observe

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/image/initrd"
	"kata/test/agentvm"
	"kata/test/pace"
)

// shell is what the debug variant of the image has in addition, more or less.
func shell(t *testing.T) []initrd.Entry {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("a static busybox is needed (Debian: busybox-static): %v", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return initrd.Debug(program, []string{"cat", "ls", "mount", "ps", "sh", "tty"})
}

// dial opens a session.
func dial(t *testing.T, v *agentvm.VM) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := v.DialPort(api.PortConsole)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(pace.Of(limit))); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// answer reads up to a line that begins with the prefix, not the echo of what was
// typed, and returns what follows it.
func answer(t *testing.T, from *bufio.Reader, prefix string) string {
	t.Helper()
	for {
		line, err := from.ReadString('\n')
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
		if err != nil {
			t.Fatalf("waiting for %q: %v", prefix, err)
		}
	}
}

func TestDebugConsole(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{
		Params: []string{"agent.debug_console", fmt.Sprintf("agent.debug_console_vport=%d", api.PortConsole)}, Files: shell(t),
	}).Sandbox()
	v.Run("c", agentvm.Spec(agentvm.Shell("sleep 100000")), agentvm.Streams{})
	type session struct {
		net.Conn
		out *bufio.Reader
	}
	var sessions []session
	ttys := map[string]bool{}
	for range 3 {
		conn, out := dial(t, v)
		sessions = append(sessions, session{conn, out})
	}
	for _, s := range sessions { // all at the same time
		fmt.Fprintf(s, "echo \"t\"ty: $(tty)\n")
		ttys[answer(t, s.out, "tty: ")] = true
	}
	if len(ttys) != 3 {
		t.Errorf("terminals %v", ttys)
	}
	first := sessions[0]
	fmt.Fprintf(first, "echo \"i\"nit: $(cat /proc/1/comm) $(pwd) $(cat /proc/self/oom_score_adj)\n")
	if got := answer(t, first.out, "init: "); got != "init / 0" {
		t.Errorf("the shell sees %q", got)
	}
	fmt.Fprintf(first, "ps | cat; exit\n")
	rest, err := io.ReadAll(first.out)
	if err != nil || !strings.Contains(string(rest), "sleep 100000") {
		t.Errorf("processes %q, %v", rest, err)
	}
	// A client that only sends still gets the answer.
	conn, out := dial(t, v)
	fmt.Fprintf(conn, "echo \"b\"ye\n")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer(t, out, "bye")
	if _, err := io.ReadAll(out); err != nil {
		t.Error(err)
	}
	// Sessions end with their connections, and nothing of them is left.
	for _, s := range sessions[1:] {
		_ = s.Close()
	}
	for deadline := time.Now().Add(pace.Of(limit)); ; {
		conn, out := dial(t, v)
		fmt.Fprintf(conn, "n=0; for s in /proc/[0-9]*/comm; do [ \"$(cat $s)\" = sh ] && n=$((n+1)); done; echo \"n\"umber: $n; exit\n")
		n := answer(t, out, "number: ")
		_ = conn.Close()
		if n == "1" || n == "2" { // itself, and the one that looks
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s shells are left", n)
		}
	}
}

func TestDebugConsoleWithoutAShell(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{Params: []string{fmt.Sprintf("agent.debug_console_vport=%d", api.PortConsole)}})
	for range 2 {
		_, out := dial(t, v)
		text, err := io.ReadAll(out)
		if err != nil || !strings.HasPrefix(string(text), "kata-agent: this guest has no shell") || !strings.Contains(string(text), "kata-image initrd -variant debug") {
			t.Errorf("it says %q, %v", text, err)
		}
	}
	v.Alive()
}

func TestNoDebugConsoleUnlessAsked(t *testing.T) {
	v := agentvm.Boot(t, agentvm.Options{Files: shell(t)})
	if conn, err := v.DialPort(api.PortConsole); err == nil {
		_ = conn.Close()
		t.Error("there is one")
	}
	v.Alive()
}
