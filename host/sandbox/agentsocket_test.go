package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/api"
	"kata/host/vsock"
	"kata/test/pace"
)

const patience = time.Minute

// guest is a guest of which one port has a listener.
type guest struct {
	*testing.T
	passages *passages
	path     string
	accepted chan *net.UnixConn
}

const openPort = api.PortAgent

func newGuest(t *testing.T) *guest {
	t.Helper()
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "guest"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	g := &guest{T: t, path: filepath.Join(dir, "s"), accepted: make(chan *net.UnixConn, 2*maxPassages)}
	dial := func(ctx context.Context, port uint32) (net.Conn, error) {
		if port != openPort {
			return nil, syscall.ECONNREFUSED
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		if err != nil {
			return nil, err
		}
		accepted, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		g.accepted <- accepted
		return conn, nil
	}
	if g.passages, err = servePassages(g.path, dial, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.passages.close() })
	return g
}

// dial connects as clients do. The second connection is the guest's end.
func (g *guest) dial() (client, inside net.Conn) {
	g.Helper()
	client, err := (&vsock.Hybrid{Path: g.path}).Dial(g.Context(), openPort)
	if err != nil {
		g.Fatal(err)
	}
	inside = <-g.accepted
	g.Cleanup(func() { _, _ = client.Close(), inside.Close() })
	for _, c := range []net.Conn{client, inside} {
		if err := c.SetDeadline(time.Now().Add(pace.Of(patience))); err != nil {
			g.Fatal(err)
		}
	}
	return client, inside
}

func TestAConnectionToTheAgentsSocketIsTheGuests(t *testing.T) {
	g := newGuest(t)
	client, inside := g.dial()
	for _, way := range []struct{ from, to net.Conn }{{client, inside}, {inside, client}} {
		sent := strings.Repeat("0123456789", 100_000)
		go func() {
			_, _ = io.WriteString(way.from, sent)
			_ = way.from.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(way.to)
		if err != nil || string(got) != sent {
			t.Fatalf("%d bytes of %d arrived: %v", len(got), len(sent), err)
		}
	}
}

func TestNothingIsLostThatComesWithThePort(t *testing.T) {
	g := newGuest(t)
	client, err := net.Dial("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := fmt.Fprintf(client, "CONNECT %d\nhello %s\n", openPort, strings.Repeat("x", 4096)); err != nil {
		t.Fatal(err)
	}
	inside := <-g.accepted
	defer inside.Close()
	line, err := bufio.NewReader(inside).ReadString('\n')
	if err != nil || len(line) != len("hello \n")+4096 {
		t.Errorf("the guest reads %d bytes, %v", len(line), err)
	}
	answer, err := bufio.NewReader(client).ReadString('\n')
	if err != nil || !strings.HasPrefix(answer, "OK ") {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestAPortThatNobodyHasIsRefused(t *testing.T) {
	g := newGuest(t)
	_, err := (&vsock.Hybrid{Path: g.path}).Dial(t.Context(), openPort+1)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want connection refused", err)
	}
}

func TestWhatNamesNoPortIsClosed(t *testing.T) {
	g := newGuest(t)
	for _, line := range []string{"\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "GET / HTTP/1.1\n", strings.Repeat("CONNECT ", 20)} {
		client, err := net.Dial("unix", g.path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(client, line)
		_ = client.SetDeadline(time.Now().Add(pace.Of(patience)))
		answer, err := io.ReadAll(client)
		if len(answer) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: answer %q, %v", line, answer, err)
		}
		_ = client.Close()
	}
	if len(g.accepted) > 0 {
		t.Error("one of them reached the guest")
	}
}

func TestTheAgentsSocketIsForRootAlone(t *testing.T) {
	g := newGuest(t)
	info, err := os.Stat(g.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestNoConnectionOutlivesTheSandbox(t *testing.T) {
	g := newGuest(t)
	client, inside := g.dial()
	waiting, err := net.Dial("unix", g.path) // and has named no port yet
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if err := g.passages.close(); err != nil {
		t.Fatal(err)
	}
	for name, conn := range map[string]net.Conn{"client": client, "guest": inside, "who waits": waiting} {
		_ = conn.SetDeadline(time.Now().Add(pace.Of(patience)))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s reads %d, %v", name, n, err)
		}
	}
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestAConnectionEndsWithTheGuests(t *testing.T) {
	g := newGuest(t)
	client, inside := g.dial()
	if err := inside.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

func TestConnectionsToTheAgentAreBounded(t *testing.T) {
	g := newGuest(t)
	first, firstInside := g.dial()
	for range maxPassages - 1 {
		g.dial()
	}
	if _, err := (&vsock.Hybrid{Path: g.path}).Dial(t.Context(), openPort); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("one too many: %v, want connection refused", err)
	}
	_, _ = first.Close(), firstInside.Close()
	// The place is free when both ends are seen to be gone.
	for deadline := time.Now().Add(pace.Of(patience)); ; {
		conn, err := (&vsock.Hybrid{Path: g.path}).Dial(t.Context(), openPort)
		if err == nil {
			_, _ = conn.Close(), (<-g.accepted).Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one has ended: %v", err)
		}
	}
}
