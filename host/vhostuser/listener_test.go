package vhostuser

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kata/host/unixsocket"
)

func TestListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v", st.Mode())
	}
	if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen = %v", err)
	}
	front, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	back, err := l.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a second VMM could connect")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is still there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestListenerEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	go cancel(cause)
	if _, err := l.Accept(ctx); !errors.Is(err, cause) {
		t.Errorf("Accept = %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close = %v", err)
	}
}

func TestListenOnAnImpossiblePath(t *testing.T) {
	long := "/tmp/" + strings.Repeat("x", unixsocket.MaxPath)
	if _, err := Listen(long); err == nil || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("Listen = %v", err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Listen = %v", err)
	}
}
