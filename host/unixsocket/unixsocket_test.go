package unixsocket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/unixsocket.")) }

func TestASocketIsPrivateFromItsBind(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "s")
	bound, err := Bind(path, 0) // what there is before anybody can connect
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Error("connected before it listens")
	}
}

func TestListenServesAndRemovesItsPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := Listen(path); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("listening twice gave %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the path is there: %v", err)
	}
}

func TestPathsThatCannotBe(t *testing.T) {
	for _, path := range []string{"/" + strings.Repeat("x", MaxPath), filepath.Join(t.TempDir(), "no", "s")} {
		if l, err := Listen(path); err == nil || !strings.Contains(err.Error(), path) {
			_ = l.Close()
			t.Errorf("%s: %v", path, err)
		}
	}
}
