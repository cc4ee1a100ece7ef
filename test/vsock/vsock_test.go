//go:build vm

package vsock

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"kata/host/vsock"
)

// pattern is the byte at offset i of what the guest's source sends.
func pattern(i uint64) byte { return byte(i*7 + i>>8) }

func TestStreams(t *testing.T) {
	m := boot(t)
	t.Run("an echo comes back", func(t *testing.T) {
		c := m.dial(t, portEcho)
		defer c.Close()
		for i := range 200 {
			msg := bytes.Repeat([]byte{byte(i)}, 1+i*37)
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, msg) {
				t.Fatalf("echo %d differs", i)
			}
		}
	})
	t.Run("a port without listener refuses", func(t *testing.T) {
		_, err := m.dev.Dial(context.Background(), 999)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("Dial = %v", err)
		}
	})
	t.Run("20 MiB to the guest arrive, then its answer after our end", func(t *testing.T) {
		c := m.dial(t, portHash)
		defer c.Close()
		data := make([]byte, 20<<20)
		rand.Read(data)
		if _, err := io.Copy(c, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		want := sha256.Sum256(data)
		if err != nil || !bytes.Equal(got, want[:]) {
			t.Fatalf("hash %x, %v; want %x", got, err, want)
		}
	})
	t.Run("20 MiB from the guest arrive, then the end", func(t *testing.T) {
		const size = 20<<20 + 123
		c := m.dial(t, portSource)
		defer c.Close()
		if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, size)); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		n, err := io.Copy(&b, c)
		if n != size || err != nil {
			t.Fatalf("got %d bytes, %v", n, err)
		}
		for i, v := range b.Bytes() {
			if v != pattern(uint64(i)%(64<<10)) {
				t.Fatalf("byte %d differs", i)
			}
		}
	})
	t.Run("64 echoes at once", func(t *testing.T) { manyEchoes(t, m, 64) })
	t.Run("the guest connects", func(t *testing.T) { guestConnects(t, m) })
	t.Run("more connections than the backlog are refused", func(t *testing.T) { backlog(t, m) })
	t.Run("a guest that does not read stops the writer, not the device", func(t *testing.T) { deaf(t, m) })
	t.Run("a guest that closes with data unread", func(t *testing.T) {
		c := m.dial(t, portReset)
		defer c.Close()
		_, err := c.Write(make([]byte, 1<<20))
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("Write = %v", err)
		}
	})
	t.Run("1000 short connections", func(t *testing.T) {
		for range 1000 {
			c := m.dial(t, portEcho)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func manyEchoes(t *testing.T, m *machine, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c := m.dial(t, portEcho)
			defer c.Close()
			data := bytes.Repeat([]byte{byte(i), 1, 2, 3}, 64<<10)
			go func() {
				if _, err := c.Write(data); err != nil {
					t.Errorf("write: %v", err)
				}
				_ = c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("echo %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

// askConnect makes the guest connect n times and returns how often it could.
func askConnect(t *testing.T, m *machine, port uint32, n uint64) (made, refused uint64) {
	c := m.dial(t, portConnect)
	defer c.Close()
	req := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(port)), n)
	if _, err := c.Write(req); err != nil {
		t.Fatal(err)
	}
	var reply [16]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(reply[:]), binary.LittleEndian.Uint64(reply[8:])
}

func guestConnects(t *testing.T, m *machine) {
	l, err := m.dev.Listen(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if made, _ := askConnect(t, m, 5000, 3); made != 3 {
		t.Fatalf("guest made %d connections, want 3", made)
	}
	for range 3 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if a := c.LocalAddr().(*vsock.Addr); a.Port != 5000 || a.CID != 2 {
			t.Errorf("local address %v", a)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.(*vsock.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Fatalf("echo %q, %v", got, err)
		}
		c.Close()
	}
}

func backlog(t *testing.T, m *machine) {
	l, err := m.dev.Listen(5001)
	if err != nil {
		t.Fatal(err)
	}
	if made, refused := askConnect(t, m, 5001, 70); made != 64 || refused != 6 {
		t.Errorf("made %d, refused %d; want 64 and 6", made, refused)
	}
	l.Close()
	if _, refused := askConnect(t, m, 5001, 1); refused != 1 {
		t.Errorf("a closed listener still accepts")
	}
}

func deaf(t *testing.T, m *machine) {
	c := m.dial(t, portDeaf)
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(make([]byte, 4<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n < 128<<10 || n > 1<<20 {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	manyEchoes(t, m, 2)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestEndOfTheMachine(t *testing.T) {
	t.Run("power off ends Run without error", func(t *testing.T) {
		m := boot(t)
		c := m.dial(t, portEcho)
		m.dial(t, portOff)
		if err := m.finished(t); err != nil {
			t.Errorf("Run = %v", err)
		}
		expectGone(t, m, c)
	})
	t.Run("SIGTERM ends QEMU", func(t *testing.T) {
		m := boot(t)
		c := m.dial(t, portEcho)
		m.qemu.Signal(syscall.SIGTERM)
		if err := m.finished(t); err != nil {
			t.Errorf("Run = %v", err)
		}
		expectGone(t, m, c)
	})
	t.Run("SIGKILL of QEMU is noticed", func(t *testing.T) {
		m := boot(t)
		c := m.dial(t, portEcho)
		m.qemu.Signal(syscall.SIGKILL)
		_ = m.finished(t)
		expectGone(t, m, c)
	})
	t.Run("closing the device does not hang QEMU", func(t *testing.T) {
		m := boot(t)
		c := m.dial(t, portEcho)
		if err := m.dev.Close(); err != nil {
			t.Error(err)
		}
		expectGone(t, m, c)
		m.qemu.Signal(syscall.SIGTERM)
		if err := m.finished(t); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run = %v", err)
		}
	})
}

// expectGone checks that everything fails at once after the VM's end.
func expectGone(t *testing.T, m *machine, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, vsock.ErrGone) && err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v", err)
	}
	if _, err := m.dev.Dial(context.Background(), portEcho); !errors.Is(err, vsock.ErrGone) {
		t.Errorf("Dial = %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}
