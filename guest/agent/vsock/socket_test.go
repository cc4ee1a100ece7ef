package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// pair returns both ends of a connection over a unix socket; the client's port
// is 4711.
func pair(t *testing.T) (server, client *Conn) {
	t.Helper()
	dir := t.TempDir()
	l, err := ListenUnix(filepath.Join(dir, "l"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "c.4711")}); err != nil {
		t.Fatal(err)
	}
	client, err = dial(t.Context(), fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "l")}, "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, client
}

func TestBytesArriveAndHalfCloseIsEOF(t *testing.T) {
	server, client := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // beyond any socket buffer
	sent := make(chan error, 1)
	go func() {
		_, err := client.Write(want)
		if err == nil {
			err = client.CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if _, err := server.Write([]byte("back")); err != nil {
		t.Errorf("write after the peer's half close: %v", err)
	}
	answer := make([]byte, 8)
	if n, err := client.Read(answer); err != nil || string(answer[:n]) != "back" {
		t.Errorf("read %q, %v", answer[:n], err)
	}
}

func TestPeerPortIsTheNumberInItsName(t *testing.T) {
	server, _ := pair(t)
	if got := server.PeerPort(); got != 4711 {
		t.Errorf("PeerPort() = %d, want 4711", got)
	}
	for name, want := range map[string]uint32{"": 0, "x": 0, "12": 0, "a.b": 0, "a.12": 12, "@a.4294967295": 4294967295, "a.4294967296": 0} {
		if got := peerPort(&unix.SockaddrUnix{Name: name}); got != want {
			t.Errorf("peerPort(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestWriteToAClosedPeerFailsAndRaisesNoSignal(t *testing.T) {
	server, client := pair(t)
	server.Close()
	if _, err := client.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v, want EPIPE", err)
	}
}

func TestCloseEndsWhatIsBlocked(t *testing.T) {
	server, client := pair(t)
	ended := make(chan error, 2)
	go func() { _, err := server.Read(make([]byte, 1)); ended <- err }()
	go func() { _, err := server.Write(make([]byte, 64<<20)); ended <- err }()
	// What the writer has put into the socket proves that it runs.
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	server.Close()
	for range 2 {
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("ended with %v, want os.ErrClosed", err)
		}
	}
}

func TestDeadlineEndsARead(t *testing.T) {
	server, _ := pair(t)
	if err := server.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

func TestCloseEndsAccept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v; want 0600", info.Mode(), err)
	}
	ended := make(chan error)
	go func() { _, err := l.Accept(); ended <- err }()
	l.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("accept: %v, want os.ErrClosed", err)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	conn, err := newConn(fds[0], "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A socket that stays unwritable stands for a connect in progress.
	if err := conn.SetDeadline(time.Now().Add(pace.Of(time.Minute))); err != nil {
		t.Fatal(err)
	}
	if err := conn.awaitConnect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("awaitConnect: %v, want context.Canceled", err)
	}
}

func TestListenOnAPathThatIsTakenNamesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); !errors.Is(err, unix.EADDRINUSE) || !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Errorf("ListenUnix: %v", err)
	}
}

func TestOnlyTheHostMayConnect(t *testing.T) {
	for peer, want := range map[unix.Sockaddr]bool{
		&unix.SockaddrVM{CID: HostCID}: false, &unix.SockaddrVM{CID: 3}: true, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL}: true,
		&unix.SockaddrUnix{}: false,
	} {
		if got := fromGuest(peer); got != want {
			t.Errorf("fromGuest(%+v) = %v", peer, got)
		}
	}
}

func TestAcceptSurvivesAWantOfDescriptors(t *testing.T) {
	l, err := ListenUnix(filepath.Join(t.TempDir(), "l"))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = conn.Close()
		}
		accepted <- err
	}()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: l.name}); err != nil {
		t.Error(err)
	}
	select {
	case err := <-accepted:
		t.Errorf("accepted without a descriptor to have: %v", err)
	case <-time.After(3 * acceptPause):
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	_ = l.Close()
}
