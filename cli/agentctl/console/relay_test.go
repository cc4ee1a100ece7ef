package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// connected returns both ends of a connection whose halves can be closed.
func connected(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if far, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

func TestRelayOfAScript(t *testing.T) {
	near, far := connected(t)
	in, typist, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		_, _ = io.WriteString(typist, "typed")
		_ = typist.Close()
	}()
	go func() { // the program says what it has read when there is no more
		text, _ := io.ReadAll(far)
		_, _ = io.WriteString(far, strings.ToUpper(string(text)))
		_ = far.Close()
	}()
	var out bytes.Buffer
	if err := Relay(t.Context(), in, &out, near); err != nil || out.String() != "TYPED" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestRelayEndsWithTheProgram(t *testing.T) {
	near, far := connected(t)
	in, typist, err := os.Pipe() // where nobody types
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer typist.Close()
	_, _ = io.WriteString(far, "bye")
	_ = far.Close()
	var out bytes.Buffer
	if err := Relay(t.Context(), in, &out, near); err != nil || out.String() != "bye" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestRelayEndsWithItsContext(t *testing.T) {
	near, _ := connected(t)
	in, typist, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer typist.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if err := Relay(ctx, in, io.Discard, near); !errors.Is(err, enough) {
		t.Error(err)
	}
}
