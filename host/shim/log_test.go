package shim

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/host/untrusted"
)

// writeSpec makes dir a bundle.
func writeSpec(t *testing.T, dir string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"process":{"args":["sleep"]},"root":{"path":"rootfs"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAFullLogLosesLinesAndHoldsNothingUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &logWriter{fd}
	log := slog.New(slog.NewTextHandler(w, nil))
	for range 2000 { // more than a fifo holds
		log.Info(strings.Repeat("x", 100))
	}
	buf := make([]byte, 1<<20)
	n, err := unix.Read(fd, buf)
	if err != nil || n < 1<<15 || buf[0] != 't' {
		t.Errorf("read %d bytes (%v)", n, err)
	}
	log.Info("after")
	if n, err = unix.Read(fd, buf); err != nil || !strings.Contains(string(buf[:n]), "after") {
		t.Errorf("read %q (%v)", buf[:max(n, 0)], err)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsLoggedIsOneBoundedLine(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: asLine}))
	log.Warn("said", "guest", "a\nlevel=error\x1b[2J\u202e", "error", errors.New("b\rc"), "long", strings.Repeat("x", 1<<20), "number", 7)
	got := b.String()
	if strings.Count(got, "\n") != 1 || len(got) > 3*untrusted.MaxLine || !strings.Contains(got, `guest="a; level=error [2J" error="b; c" long="xxx`) || !strings.HasSuffix(got, "number=7\n") {
		t.Errorf("logged %.300q … (%d bytes)", got, len(got))
	}
}

func TestTheServersLogReachesContainerd(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	path := filepath.Join(b, "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := d.start(b, nil, "-debug")
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "shim serves") {
		t.Errorf("log %q (%v)", buf[:n], err)
	}
	s.kill(unix.SIGTERM)
	s.awaitEnd()
}
