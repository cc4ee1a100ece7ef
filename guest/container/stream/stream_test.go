package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/vsock"
)

// TestMain fails when tests leave descriptors open.
func TestMain(m *testing.M) {
	if r, w, err := os.Pipe(); err == nil { // makes the poller open its own
		_, _ = r.Close(), w.Close()
	}
	before := descriptors()
	code := m.Run()
	if after := descriptors(); code == 0 && after > before {
		fmt.Fprintf(os.Stderr, "descriptors: %d before, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// bench is a hub that serves a unix socket.
type bench struct {
	*testing.T
	dir   string
	hub   *Hub
	ports uint32
}

func newBench(t *testing.T, cfg HubConfig) *bench {
	b := &bench{T: t, dir: t.TempDir(), hub: NewHub(cfg)}
	l, err := vsock.ListenUnix(filepath.Join(b.dir, "l"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- b.hub.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		b.hub.Close()
	})
	return b
}

// dial opens a stream as the host does and returns it with its port.
func (b *bench) dial() (*net.UnixConn, uint32) {
	b.Helper()
	b.ports++
	return b.dialFrom(b.ports), b.ports
}

func (b *bench) dialFrom(port uint32) *net.UnixConn {
	b.Helper()
	local := filepath.Join(b.dir, fmt.Sprintf("%d.%d", time.Now().UnixNano(), port))
	conn, err := net.DialUnix("unix", &net.UnixAddr{Name: local, Net: "unix"}, &net.UnixAddr{Name: filepath.Join(b.dir, "l"), Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return conn
}

// open opens a Set that Cleanup closes.
func (b *bench) open(cfg Config) *Set {
	b.Helper()
	if cfg.Buffers == nil {
		cfg.Buffers = NewBuffers(nil)
	}
	s, err := Open(b.Context(), b.hub, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	return s
}

func patient() HubConfig { return HubConfig{MaxUnclaimed: 8, Patience: time.Minute} }

func TestOutputReachesTheHostAndEnds(t *testing.T) {
	b := newBench(t, patient())
	out, outPort := b.dial()
	errs, errPort := b.dial()
	s := b.open(Config{Ports: Ports{Stdout: outPort, Stderr: errPort}})
	s.Start()
	want := bytes.Repeat([]byte("data"), 100_000)
	go func() {
		_, _ = s.Child().Stdout.Write(want)
		_, _ = s.Child().Stderr.WriteString("oops")
		s.CloseChild()
	}()
	got, err := io.ReadAll(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("stdout: %d bytes, %v; want %d", len(got), err, len(want))
	}
	if got, err := io.ReadAll(errs); err != nil || string(got) != "oops" {
		t.Errorf("stderr: %q, %v", got, err)
	}
	if o, e := s.Written(); o != uint64(len(want)) || e != 4 {
		t.Errorf("Written() = %d, %d", o, e)
	}
	_, _ = out.Close(), errs.Close()
	s.Wait()
}

func TestAStreamWithoutAPortIsDevNull(t *testing.T) {
	b := newBench(t, patient())
	_, port := b.dial()
	s := b.open(Config{Ports: Ports{Stdout: port}})
	if n, err := s.Child().Stdin.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("stdin: %d, %v; want EOF", n, err)
	}
	if _, err := s.Child().Stderr.WriteString("x"); err != nil {
		t.Errorf("stderr: %v", err)
	}
}

func TestWrittenCountsWhatTheHostHasNotRead(t *testing.T) {
	b := newBench(t, patient())
	_, port := b.dial() // and never reads
	s := b.open(Config{Ports: Ports{Stdout: port}})
	s.Start()
	var total int
	fd := int(s.Child().Stdout.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.Write(fd, make([]byte, 1000))
		total += max(n, 0)
		if err != nil && total > 150_000 { // socket and pipe are full
			break
		}
	}
	if o, _ := s.Written(); o != uint64(total) {
		t.Errorf("Written() = %d, want %d", o, total)
	}
}

func TestAHostThatClosesDoesNotBlockTheProcess(t *testing.T) {
	b := newBench(t, patient())
	out, port := b.dial()
	s := b.open(Config{Ports: Ports{Stdout: port}})
	s.Start()
	_ = out.Close()
	for range 100 { // far more than a pipe holds
		if _, err := s.Child().Stdout.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	s.CloseChild()
	s.Wait()
	if o, _ := s.Written(); o != 100*64<<10 {
		t.Errorf("Written() = %d", o)
	}
}

func TestInputReachesTheProcessAndEnds(t *testing.T) {
	b := newBench(t, patient())
	in, port := b.dial()
	s := b.open(Config{Ports: Ports{Stdin: port}})
	s.Start()
	want := bytes.Repeat([]byte("data"), 100_000)
	go func() {
		_, _ = in.Write(want)
		_ = in.CloseWrite()
	}()
	if got, err := io.ReadAll(s.Child().Stdin); err != nil || !bytes.Equal(got, want) {
		t.Errorf("stdin: %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestAProcessThatClosesStdinEndsTheStream(t *testing.T) {
	b := newBench(t, patient())
	in, port := b.dial()
	s := b.open(Config{Ports: Ports{Stdin: port}})
	s.Start()
	s.CloseChild()
	for {
		if _, err := in.Write(make([]byte, 4096)); err != nil {
			break // EPIPE, at last
		}
	}
	s.Wait()
}

func TestCloseEndsEverything(t *testing.T) {
	b := newBench(t, patient())
	in, inPort := b.dial()
	out, outPort := b.dial()
	s := b.open(Config{Ports: Ports{Stdin: inPort, Stdout: outPort}})
	s.Start()
	s.Close()
	s.Close()
	for _, conn := range []*net.UnixConn{in, out} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
	}
}

func TestTerminal(t *testing.T) {
	b := newBench(t, patient())
	in, inPort := b.dial()
	out, outPort := b.dial()
	s := b.open(Config{Ports: Ports{Stdin: inPort, Stdout: outPort}, Terminal: true})
	master, slave := pty(t)
	if err := s.SetConsole(master); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if _, err := in.Write([]byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	if n, err := slave.Read(line); err != nil || string(line[:n]) != "typed\n" {
		t.Errorf("the process read %q, %v", line[:n], err)
	}
	_ = in.CloseWrite() // means nothing to a terminal
	if _, err := slave.WriteString("shown"); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	stdout, _ := s.Written()
	if got, err := io.ReadAll(out); err != nil || string(got) != "typed\r\nshown" || stdout != uint64(len(got)) {
		t.Errorf("the host read %q, %v; Written %d", got, err, stdout)
	}
}

func TestTerminalOutputOfAnExitedProcessIsCountedWhole(t *testing.T) {
	b := newBench(t, patient())
	s := b.open(Config{Terminal: true}) // by calls: nobody reads meanwhile
	master, slave := pty(t)
	if err := s.SetConsole(master); err != nil {
		t.Fatal(err)
	}
	fd := int(slave.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	var total int
	for {
		n, err := unix.Write(fd, make([]byte, 100))
		if err != nil {
			break
		}
		total += n
	}
	_ = slave.Close()
	if stdout, _ := s.Written(); stdout != uint64(total) || total < 5000 {
		t.Errorf("Written() = %d, want %d", stdout, total)
	}
	var read int
	for {
		data, err := s.ReadStdout(t.Context(), 1<<20)
		if err != nil {
			break
		}
		read += len(data)
	}
	if read != total {
		t.Errorf("read %d, want %d", read, total)
	}
}

func TestCallsServeAProcessWithoutConnections(t *testing.T) {
	b := newBench(t, patient())
	s := b.open(Config{})
	s.Start()
	if n, err := s.Write(t.Context(), []byte("input")); n != 5 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	s.CloseStdin()
	if got, err := io.ReadAll(s.Child().Stdin); err != nil || string(got) != "input" {
		t.Errorf("the process read %q, %v", got, err)
	}
	if _, err := s.Write(t.Context(), []byte("x")); !errors.Is(err, ErrNoStream) {
		t.Errorf("Write after CloseStdin: %v", err)
	}
	_, _ = s.Child().Stdout.WriteString("output")
	if data, err := s.ReadStdout(t.Context(), 3); err != nil || string(data) != "out" {
		t.Errorf("ReadStdout = %q, %v", data, err)
	}
	s.CloseChild()
	if data, err := s.ReadStdout(t.Context(), 100); err != nil || string(data) != "put" {
		t.Errorf("ReadStdout = %q, %v", data, err)
	}
	if _, err := s.ReadStdout(t.Context(), 100); err != io.EOF {
		t.Errorf("ReadStdout at the end: %v", err)
	}
}

func TestCallsHonourTheirContext(t *testing.T) {
	b := newBench(t, patient())
	s := b.open(Config{})
	for range 2 { // the second finds the stream unharmed
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := s.ReadStderr(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ReadStderr: %v", err)
		}
		if _, err := s.Write(ctx, make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
		cancel()
	}
	_, _ = s.Child().Stderr.WriteString("e")
	if data, err := s.ReadStderr(t.Context(), 10); err != nil || string(data) != "e" {
		t.Errorf("ReadStderr = %q, %v", data, err)
	}
}

func TestCallsOnAConnectedStreamAreRefused(t *testing.T) {
	b := newBench(t, patient())
	_, port := b.dial()
	s := b.open(Config{Ports: Ports{Stdout: port}})
	if _, err := s.ReadStdout(t.Context(), 1); !errors.Is(err, ErrConnected) {
		t.Errorf("ReadStdout: %v", err)
	}
	if _, err := s.Write(t.Context(), []byte("x")); !errors.Is(err, ErrNoStream) {
		t.Errorf("Write: %v", err)
	}
}

func TestClaimWaitsForTheConnection(t *testing.T) {
	b := newBench(t, patient())
	claimed := make(chan error)
	go func() {
		conn, err := b.hub.Claim(t.Context(), 77)
		if err == nil {
			err = conn.Close()
		}
		claimed <- err
	}()
	_ = b.dialFrom(77)
	if err := <-claimed; err != nil {
		t.Error(err)
	}
}

func TestOpenGivesBackWhatItClaimedWhenOneIsMissing(t *testing.T) {
	b := newBench(t, patient())
	out, port := b.dial()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, b.hub, Config{Ports: Ports{Stdin: port, Stdout: 99}, Buffers: NewBuffers(nil)})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "port 99") {
		t.Errorf("Open: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); err == nil {
		t.Error("the claimed connection is still open")
	}
	if len(b.hub.claims) != 0 {
		t.Errorf("%d claims are left", len(b.hub.claims))
	}
}

func TestTheSecondClaimOfAPortFails(t *testing.T) {
	b := newBench(t, patient())
	if _, err := b.hub.claim(5); err != nil {
		t.Fatal(err)
	}
	if _, err := b.hub.Claim(t.Context(), 5); !errors.Is(err, ErrClaimed) {
		t.Errorf("Claim: %v", err)
	}
}

func TestUnclaimedConnectionsAreBoundedInNumberAndTime(t *testing.T) {
	b := newBench(t, HubConfig{MaxUnclaimed: 1, Patience: 50 * time.Millisecond})
	first := b.dialFrom(1)
	second := b.dialFrom(2) // too many, as soon as it is accepted
	for _, conn := range []*net.UnixConn{second, first} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
	}
}

func TestBuffersNeverWait(t *testing.T) {
	buffers := NewBuffers(nil)
	var lent [][]byte
	for range maxLarge {
		lent = append(lent, buffers.get())
	}
	if extra := buffers.get(); len(extra) != smallBuffer {
		t.Errorf("buffer beyond the bound has %d bytes", len(extra))
	}
	for _, buf := range lent {
		if len(buf) != largeBuffer {
			t.Errorf("buffer has %d bytes", len(buf))
		}
		buffers.put(buf)
	}
	if buf := buffers.get(); len(buf) != largeBuffer {
		t.Errorf("buffer after return has %d bytes", len(buf))
	}
}

// pty returns both sides of a new terminal.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}
