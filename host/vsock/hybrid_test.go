package vsock

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

var (
	_ Dialer = (*Device)(nil)
	_ Dialer = (*Hybrid)(nil)
)

// fakeVMM answers connections to a hybrid vsock socket by answer, which gets
// the host's first line.
func fakeVMM(t *testing.T, answer func(c net.Conn, line string)) *Hybrid {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vsock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			if err == nil {
				answer(c, line)
			}
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return &Hybrid{Path: path, GuestCID: 3}
}

func TestHybridDial(t *testing.T) {
	h := fakeVMM(t, func(c net.Conn, line string) {
		if line != "CONNECT 1024\n" {
			t.Errorf("VMM got %q", line)
		}
		// The guest's first bytes come with the answer.
		io.WriteString(c, "OK 1073741824\nhello")
		io.Copy(c, c)
	})
	c, err := h.Dial(context.Background(), 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if l, r := c.LocalAddr().(*Addr), c.RemoteAddr().(*Addr); l.Port != 1073741824 || r.Port != 1024 {
		t.Errorf("connection from %v to %v", l, r)
	}
	p := make([]byte, 5)
	if _, err := io.ReadFull(c, p); string(p) != "hello" || err != nil {
		t.Errorf("read %q, %v", p, err)
	}
	if _, ok := c.(interface{ CloseWrite() error }); !ok {
		t.Error("connection cannot be closed by halves")
	}
}

func TestHybridDialFails(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   string
	}{
		"hung up":              {"", "connection refused"},
		"hung up in the line":  {"OK 10", "connection refused"},
		"another answer":       {"NO\n", `VMM answered "NO\n"`},
		"no number":            {"OK x\n", `VMM answered "OK x\n"`},
		"number too large":     {"OK 4294967296\n", "VMM answered"},
		"a line without end":   {strings.Repeat("OK ", 100), "VMM answered"},
		"an answer of nothing": {"\n", "VMM answered"},
	} {
		t.Run(name, func(t *testing.T) {
			h := fakeVMM(t, func(c net.Conn, _ string) { io.WriteString(c, test.answer) })
			_, err := h.Dial(context.Background(), 1024)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Dial = %v", err)
			}
			if refused := strings.Contains(test.want, "refused"); refused != errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Dial = %v", err)
			}
		})
	}
	t.Run("no VMM", func(t *testing.T) {
		h := &Hybrid{Path: filepath.Join(t.TempDir(), "none"), GuestCID: 3}
		_, err := h.Dial(context.Background(), 1024)
		wantErr(t, "Dial", err, os.ErrNotExist)
	})
	t.Run("a VMM that is silent", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("enough")
		h := fakeVMM(t, func(c net.Conn, _ string) {
			cancel(cause)
			io.Copy(io.Discard, c)
		})
		_, err := h.Dial(ctx, 1024)
		wantErr(t, "Dial", err, cause)
	})
}

func TestHybridListen(t *testing.T) {
	h := &Hybrid{Path: filepath.Join(t.TempDir(), "vsock"), GuestCID: 3}
	l, err := h.Listen(1028)
	if err != nil {
		t.Fatal(err)
	}
	if a := l.Addr().(*Addr); a.Port != 1028 || a.CID != HostCID {
		t.Errorf("listens at %v", a)
	}
	if st, err := os.Stat(h.Path + "_1028"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
	vmm, err := net.Dial("unix", h.Path+"_1028")
	if err != nil {
		t.Fatal(err)
	}
	defer vmm.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if a := c.LocalAddr().(*Addr); a.Port != 1028 {
		t.Errorf("connection to %v", a)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	_, err = l.Accept()
	wantErr(t, "Accept", err, net.ErrClosed)
	if _, err := os.Stat(h.Path + "_1028"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is still there: %v", err)
	}
}
