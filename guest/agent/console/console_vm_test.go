//go:build vmtest

package console

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/agent/vsock"
	"kata/test/leaktest"
	"kata/test/pace"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/guest/agent/console.")) }

// served is a console that is reached by a unix socket.
type served struct {
	*testing.T
	socket string
}

// serve serves a console whose guest has a shell, unless bare.
func serve(t *testing.T, bare bool) served {
	t.Helper()
	dir := t.TempDir()
	if !bare {
		if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/bin/busybox", dir+"/bin/sh"); err != nil {
			t.Fatal(err)
		}
	}
	children := reaper.New()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = children.Run(ctx) })
	l, err := vsock.ListenUnix(filepath.Join(dir, "console.sock"))
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Reaper: children, Root: dir})
	running.Go(func() {
		if err := c.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.Close()
		noChildren(t)
		cancel()
		running.Wait()
	})
	return served{t, filepath.Join(dir, "console.sock")}
}

// noChildren fails the test if the shells have not all been collected.
func noChildren(t *testing.T) {
	t.Helper()
	task := fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())
	if text, err := os.ReadFile(task); err != nil || len(text) > 0 {
		t.Errorf("children are left: %q, %v", text, err)
	}
}

// client is one connection.
type client struct {
	served
	*net.UnixConn
	out *bufio.Reader
}

func (s served) dial() *client {
	s.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(pace.Of(2 * time.Minute))); err != nil {
		s.Fatal(err)
	}
	return &client{s, conn.(*net.UnixConn), bufio.NewReader(conn)}
}

// do types a line. What is typed comes back as the echo of the terminal; quotes in
// it, which the shell takes away, tell the two apart.
func (c *client) do(line string) {
	c.Helper()
	if _, err := io.WriteString(c.UnixConn, line+"\n"); err != nil {
		c.Fatal(err)
	}
}

// until reads up to a line that begins with the prefix and returns what follows
// it.
func (c *client) until(prefix string) string {
	c.Helper()
	for {
		line, err := c.out.ReadString('\n')
		if i := strings.Index(line, prefix); i >= 0 {
			return strings.TrimRight(line[i+len(prefix):], "\r\n")
		}
		if err != nil {
			c.Fatalf("waiting for %s: %v", prefix, err)
		}
	}
}

// rest reads to the end.
func (c *client) rest() string {
	c.Helper()
	text, err := io.ReadAll(c.out)
	if err != nil {
		c.Errorf("the connection does not end: %v", err)
	}
	return string(text)
}

func TestShell(t *testing.T) {
	c := serve(t, false).dial()
	c.do(`echo "a"nswer: $((6*7)) $(pwd) $HOME $TERM $(busybox id -u) $(busybox tty) $(busybox stty size)`)
	if got := c.until("answer: "); !strings.HasPrefix(got, "42 / / linux 0 /dev/pts/") || !strings.HasSuffix(got, " 24 80") {
		t.Errorf("got %q", got)
	}
	c.do(`echo "b"oth: $(busybox cat /proc/self/oom_score_adj) $(busybox ls /proc/self/fd | busybox tr '\n' ' ')`)
	if got := c.until("both: "); got != "0 0 1 2 3" { // ls opens one itself
		t.Errorf("oom_score_adj and descriptors are %q", got)
	}
	c.do(`busybox seq 2000; echo "l"ast; exit 3`)
	if rest := c.rest(); !strings.Contains(rest, "\n1999\r\n2000\r\nlast\r\n") {
		t.Errorf("the end of the output is missing: %q", rest[max(0, len(rest)-100):])
	}
}

func TestSessionsAreTheirOwn(t *testing.T) {
	s := serve(t, false)
	clients := make([]*client, 5)
	ttys := map[string]bool{}
	for i := range clients {
		clients[i] = s.dial()
		clients[i].do(fmt.Sprintf(`v=%d; echo "t"ty: $(busybox tty)`, i))
	}
	for i, c := range clients {
		ttys[c.until("tty: ")] = true
		c.do(`echo "v"alue: $v`)
		if got := c.until("value: "); got != fmt.Sprint(i) {
			t.Errorf("session %d has the variable of %s", i, got)
		}
	}
	if len(ttys) != len(clients) {
		t.Errorf("terminals %v", ttys)
	}
	for _, c := range clients {
		c.do("exit")
		c.rest()
	}
}

func TestConnectionsThatEndTakeTheirSessionAlong(t *testing.T) {
	for name, script := range map[string]string{
		"a shell that waits":                  `echo "r"eady`,
		"a shell with something that runs":    `echo "r"eady; busybox sleep 1000`,
		"a shell that hears no signals":       `trap '' HUP TERM INT; echo "r"eady; while :; do :; done`,
		"a shell with something that is deaf": `(trap '' HUP; echo "r"eady; busybox sleep 1000)`,
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, false).dial()
			c.do(`echo "p"rocess: $$`)
			process := c.until("process: ")
			c.do(script)
			c.until("ready")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(pace.Of(time.Minute)); ; time.Sleep(5 * time.Millisecond) {
				if _, err := os.Stat("/proc/" + process); err != nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("process %s is still there", process)
				}
			}
		})
	}
	// What ignored the signal is nobody's any more; here it is ours.
	kill("sleep")
}

// kill kills every process of that name.
func kill(name string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		text, _ := os.ReadFile(file)
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil && strings.Contains(string(text), "\x00"+name+"\x00") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// TestAScriptFromAPipe: who sends commands and no more still gets what they say.
func TestAScriptFromAPipe(t *testing.T) {
	for name, script := range map[string]string{
		"that ends by itself": `echo "o"ne; exit`,
		"that does not":       `echo "o"ne`,
		"that takes a while":  `busybox sleep 1; echo "o"ne`,
		"of many lines":       strings.Repeat("busybox true\n", 40) + `echo "o"ne`,
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, false).dial()
			c.do(script)
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := c.rest(); !strings.Contains(got, "one\r\n") {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestAShellThatLeavesSomethingBehindEnds(t *testing.T) {
	c := serve(t, false).dial()
	c.do(`(trap '' HUP; exec busybox sleep 1000) & echo "b"ye; exit`)
	if got := c.rest(); !strings.Contains(got, "bye\r\n") {
		t.Errorf("got %q", got)
	}
	kill("sleep")
}

func TestAGuestWithoutAShellSaysSo(t *testing.T) {
	c := serve(t, true).dial()
	if got := c.rest(); got != "kata-agent: "+noShell+"\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	s := serve(t, false)
	clients := make([]*client, maxSessions)
	for i := range clients {
		clients[i] = s.dial()
		clients[i].do(`echo "u"p:`)
		clients[i].until("up:")
	}
	if got := s.dial().rest(); got != "kata-agent: there are 16 sessions already\r\n" {
		t.Errorf("got %q", got)
	}
	clients[0].do("exit")
	clients[0].rest()
	for deadline := time.Now().Add(pace.Of(time.Minute)); ; { // the place is free a moment later
		c := s.dial()
		_, _ = io.WriteString(c, "echo \"u\"p:; exit\n")
		text, _ := io.ReadAll(c.out) // it may be refused at any moment of this
		_ = c.Close()
		if strings.Contains(string(text), "up:\r\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no place again")
		}
	}
}

func TestCloseEndsSessions(t *testing.T) {
	s := serve(t, false)
	c := s.dial()
	c.do(`echo "u"p:`)
	c.until("up:")
	// The rest is what the test's end does.
}
