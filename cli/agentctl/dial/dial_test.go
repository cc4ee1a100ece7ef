package dial_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kata/cli/agentctl/dial"
)

func TestParse(t *testing.T) {
	for _, good := range []string{
		"vsock://3:1024", "vsock://4294967294:1", "hvsock:///run/vm.sock:1024", "hvsock:///a:b:1024",
		"unix:///run/agent.sock", "unix://@agent", "unix://@/a/b",
	} {
		a, err := dial.Parse(good)
		if err != nil || a.String() != good {
			t.Errorf("%s: %v, %v", good, a, err)
		}
	}
	for bad, want := range map[string]string{
		"":                                    "begins with none of vsock://",
		"tcp://host:1":                        "begins with none of vsock://",
		"vsock://3":                           "vsock://CID:PORT was expected",
		"vsock://x:1024":                      `CID "x" is not the number of a guest`,
		"vsock://-1:1024":                     `CID "-1"`,
		"vsock://4294967295:1024":             "CID",
		"vsock://3:":                          `port "" is not a vsock port`,
		"vsock://3:99999999999":               "is not a vsock port",
		"hvsock:///run/vm.sock":               "hvsock://PATH:PORT was expected",
		"hvsock://relative:1024":              `path "relative" is not absolute`,
		"unix://relative":                     `path "relative" is not absolute`,
		"unix://":                             `path "" is not absolute`,
		"unix://@":                            "abstract name",
		"unix:///" + strings.Repeat("x", 107): "longer than the 107 bytes",
	} {
		if a, err := dial.Parse(bad); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%s: %v, %v; want %s", bad, a, err, want)
		}
	}
}

// echo serves one connection after another.
func echo(t *testing.T, path string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

func talk(t *testing.T, address string) {
	t.Helper()
	a, err := dial.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "ping\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "ping\n" || err != nil {
		t.Errorf("%s answers %q, %v", address, line, err)
	}
}

func line(c net.Conn) string {
	text, _ := bufio.NewReader(c).ReadString('\n')
	return text
}

func TestDial(t *testing.T) {
	dir := t.TempDir()
	plain := func(c net.Conn) { _, _ = io.WriteString(c, line(c)) }
	echo(t, filepath.Join(dir, "plain"), plain)
	talk(t, "unix://"+filepath.Join(dir, "plain"))
	abstract := "@" + filepath.Join(dir, "abstract")
	echo(t, abstract, plain)
	talk(t, "unix://"+abstract)
	echo(t, filepath.Join(dir, "hybrid"), func(c net.Conn) {
		if line(c) == "CONNECT 1024\n" {
			_, _ = io.WriteString(c, "OK 7\n")
			_, _ = io.WriteString(c, line(c))
		}
	})
	talk(t, "hvsock://"+filepath.Join(dir, "hybrid")+":1024")
}

func TestFailuresNameTheAddress(t *testing.T) {
	dir := t.TempDir()
	echo(t, filepath.Join(dir, "hybrid"), func(c net.Conn) { line(c) }) // hangs up
	for address, want := range map[string]error{
		"unix://" + dir + "/missing":        syscall.ENOENT,
		"unix://@" + dir:                    syscall.ECONNREFUSED,
		"hvsock://" + dir + "/hybrid:1024":  syscall.ECONNREFUSED,
		"hvsock://" + dir + "/missing:1024": syscall.ENOENT,
		"vsock://4294967294:1024":           nil, // whatever this host's kernel has
	} {
		a, err := dial.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := a.Dial(t.Context())
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: it connects", address)
			continue
		}
		if want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v, want %v", address, err, want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	a, _ := dial.Parse("unix://" + dir + "/hybrid")
	if _, err := a.Dial(ended); err == nil {
		t.Error("it connects although the time is over")
	}
}
