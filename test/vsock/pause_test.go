//go:build vm

package vsock

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kata/host/vsock"
	"kata/test/pace"
)

// monitor is QEMU's control connection.
type monitor struct {
	tb   testing.TB
	conn net.Conn
	dec  *json.Decoder
}

// withMonitor boots a machine that can be controlled.
func withMonitor(t *testing.T, extra ...string) (*machine, *monitor) {
	path := filepath.Join(t.TempDir(), "qmp")
	m := boot(t, append(extra, "-qmp", "unix:"+path+",server=on,wait=off")...)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	q := &monitor{tb: t, conn: conn, dec: json.NewDecoder(conn)}
	q.do("qmp_capabilities", nil)
	return m, q
}

// do runs a command and skips whatever events come before its answer.
func (q *monitor) do(command string, args map[string]any) {
	q.tb.Helper()
	req, err := json.Marshal(map[string]any{"execute": command, "arguments": args})
	if args == nil {
		req, err = json.Marshal(map[string]any{"execute": command})
	}
	if err != nil {
		q.tb.Fatal(err)
	}
	if _, err := q.conn.Write(req); err != nil {
		q.tb.Fatal(err)
	}
	if err := q.conn.SetReadDeadline(time.Now().Add(pace.Of(20 * time.Second))); err != nil {
		q.tb.Fatal(err)
	}
	for {
		var answer map[string]any
		if err := q.dec.Decode(&answer); err != nil {
			q.tb.Fatalf("%s: %v", command, err)
		}
		if e, ok := answer["error"]; ok {
			q.tb.Fatalf("%s: %v", command, e)
		}
		if _, ok := answer["return"]; ok {
			return
		}
	}
}

func echoes(t *testing.T, c *vsock.Conn, msg string) {
	t.Helper()
	if _, err := c.Write([]byte(msg)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != msg {
		t.Fatalf("echo %q, %v", got, err)
	}
}

func TestPausedMachine(t *testing.T) {
	m, q := withMonitor(t)
	c := m.dial(t, portEcho)
	defer c.Close()
	for range 20 {
		echoes(t, c, "before")
		q.do("stop", nil)
		// Written while it is paused, it comes back afterwards.
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(bytes.Repeat([]byte("x"), 100_000))
			done <- err
		}()
		q.do("cont", nil)
		if _, err := io.ReadFull(c, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestMemoryIsPluggedUnderTraffic(t *testing.T) {
	m, q := withMonitor(t, "-m", "256,slots=8,maxmem=2G")
	stop := make(chan struct{})
	done := make(chan error, 1)
	c := m.dial(t, portEcho)
	defer c.Close()
	go func() {
		msg, got := bytes.Repeat([]byte("y"), 20_000), make([]byte, 20_000)
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			_, err := c.Write(msg)
			if err == nil {
				_, err = io.ReadFull(c, got)
			}
			if err == nil && !bytes.Equal(got, msg) {
				err = errors.New("echo differs")
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for _, id := range []string{"a", "b", "c", "d"} {
		q.do("object-add", map[string]any{"qom-type": "memory-backend-memfd", "id": "ram" + id, "size": 128 << 20, "share": true})
		q.do("device_add", map[string]any{"driver": "pc-dimm", "id": "dimm" + id, "memdev": "ram" + id})
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	echoes(t, c, "after")
}

func TestRestartedMachine(t *testing.T) {
	m, q := withMonitor(t)
	l, err := m.dev.Listen(portReady)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		old := m.dial(t, portEcho)
		echoes(t, old, "before")
		q.do("set-action", map[string]any{"reboot": "reset"})
		q.do("system_reset", nil)
		ready, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ready.Close()
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read of the old connection = %v", err)
		}
		old.Close()
		c := m.dial(t, portEcho)
		echoes(t, c, "after")
		c.Close()
	}
}
