package stdio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/leaktest"
	"kata/test/pace"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "logger" {
		os.Exit(loggerMain(os.Args[2:]))
	}
	os.Exit(leaktest.Run(m, "kata/host/stdio."))
}

// limit bounds what a test waits for; nothing waits that long unless it hangs.
const limit = 10 * time.Second

// pair returns two connected sockets: the one that Copy uses, and the guest's.
func pair(t *testing.T) (host, guest *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		_ = c.SetDeadline(time.Now().Add(pace.Of(limit)))
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

func fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, c Config) *Set {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reader opens the reading end of a fifo as a containerd client does.
func reader(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.SetDeadline(time.Now().Add(pace.Of(limit)))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func writer(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.SetDeadline(time.Now().Add(pace.Of(limit)))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read: %v (after %q)", err, b)
	}
	return string(b)
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(pace.Of(limit)):
		t.Fatalf("%s: still waiting after %s", what, limit)
	}
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestOutputReachesTheReaderWhole(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	r := reader(t, path)
	s.Copy(Streams{Stdout: host})
	want := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	go func() { _, _ = guest.Write(want) }()
	drained := make(chan struct{})
	go func() { s.Drain(uint64(len(want)), 0); close(drained) }()
	if got := readAll(t, r); sha256.Sum256([]byte(got)) != sha256.Sum256(want) {
		t.Errorf("%d bytes arrived, want %d, or they differ", len(got), len(want))
	}
	await(t, "drain", drained)
}

func TestDrainDoesNotWaitForAProcessThatHoldsTheStream(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	r := reader(t, path)
	s.Copy(Streams{Stdout: host})
	write(t, guest, "output") // guest stays open
	s.Drain(6, 0)
	if got := readAll(t, r); got != "output" {
		t.Errorf("read %q, want %q", got, "output")
	}
}

func TestDrainWaitsForWhatIsStillUnderWay(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	r := reader(t, path)
	s.Copy(Streams{Stdout: host})
	write(t, guest, "first ")
	drained := make(chan struct{})
	go func() { s.Drain(12, 0); close(drained) }()
	write(t, guest, "second")
	await(t, "drain", drained)
	if got := readAll(t, r); got != "first second" {
		t.Errorf("read %q", got)
	}
}

func TestDrainEndsWhenTheStreamEndsEarly(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	r := reader(t, path)
	s.Copy(Streams{Stdout: host})
	write(t, guest, "half")
	_ = guest.Close() // the virtual machine died
	s.Drain(1000, 1000)
	if got := readAll(t, r); got != "half" {
		t.Errorf("read %q", got)
	}
}

func TestStuckReaderHoldsTheOutputUntilClose(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	s.Copy(Streams{Stdout: host})
	const size = 1 << 20 // more than the fifo and the socket hold
	go func() { _, _ = guest.Write(make([]byte, size)) }()
	drained := make(chan struct{})
	go func() { s.Drain(size, 0); close(drained) }()
	select {
	case <-drained:
		t.Error("Drain returned though nobody read")
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	await(t, "drain after close", drained)
}

func TestVanishedReaderNeitherKillsNorLosesOutput(t *testing.T) {
	path := fifo(t, "stdout")
	s := open(t, Config{Stdout: path})
	host, guest := pair(t)
	s.Copy(Streams{Stdout: host})
	r := reader(t, path)
	write(t, guest, "one")
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	write(t, guest, "two")
	r = reader(t, path)
	s.Drain(6, 0)
	if got := readAll(t, r); got != "two" {
		t.Errorf("read %q", got)
	}
}

func TestEmptyNamesDropOutputAndEndInput(t *testing.T) {
	s := open(t, Config{})
	host, guest := pair(t)
	in, inGuest := pair(t)
	s.Copy(Streams{Stdin: in, Stdout: host})
	if got := readAll(t, inGuest); got != "" {
		t.Errorf("input %q from nobody", got)
	}
	write(t, guest, strings.Repeat("x", 1<<16))
	s.Drain(1<<16, 0)
	if err := s.CloseStdin(); err != nil {
		t.Error(err)
	}
}

func TestMissingFifoIsAnErrorThatNamesIt(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []Config{{Stdin: missing}, {Stdout: missing}, {Stderr: missing}, {Stdout: "nfs://" + missing}} {
		s, err := Open(t.Context(), c)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("Open(%+v) = %v, want an error that names the path", c, err)
		}
	}
}

func TestInputWhoseWriterLeftBeforeTheStartIsComplete(t *testing.T) {
	for name, early := range map[string]bool{"before copying": true, "while copying": false} {
		t.Run(name, func(t *testing.T) {
			path := fifo(t, "stdin")
			s := open(t, Config{Stdin: path})
			host, guest := pair(t)
			if !early {
				s.Copy(Streams{Stdin: host})
			}
			w := writer(t, path)
			write(t, w, "input")
			_ = w.Close()
			if early {
				s.Copy(Streams{Stdin: host})
			}
			started(t, s)
			if got := readAll(t, guest); got != "input" {
				t.Errorf("process read %q", got)
			}
		})
	}
}

// TestInputOfNothing: ctr opens and closes the fifo for </dev/null.
func TestInputOfNothing(t *testing.T) {
	path := fifo(t, "stdin")
	s := open(t, Config{Stdin: path})
	host, guest := pair(t)
	s.Copy(Streams{Stdin: host})
	_ = writer(t, path).Close()
	started(t, s)
	if got := readAll(t, guest); got != "" {
		t.Errorf("process read %q", got)
	}
}

// TestInputOutlivesItsWriters: a client closes its end and comes back, before and
// after the start, and CloseStdin alone is the end.
func TestInputOutlivesItsWriters(t *testing.T) {
	for name, first := range map[string]bool{"that came before the start": true, "that come afterwards": false} {
		t.Run(name, func(t *testing.T) {
			path := fifo(t, "stdin")
			s := open(t, Config{Stdin: path})
			host, guest := pair(t)
			s.Copy(Streams{Stdin: host})
			var w *os.File
			if first {
				w = writer(t, path)
			}
			started(t, s)
			for _, part := range []string{"before ", "between ", "after"} {
				if w == nil {
					w = writer(t, path)
				}
				write(t, w, part)
				_ = w.Close()
				w = nil
				got := make([]byte, len(part))
				if _, err := io.ReadFull(guest, got); err != nil || string(got) != part {
					t.Fatalf("process read %q, %v; want %q", got, err, part)
				}
			}
			w = writer(t, path)
			write(t, w, "last")
			_ = s.CloseStdin()
			if got := readAll(t, guest); got != "last" {
				t.Errorf("process read %q", got)
			}
		})
	}
}

// TestStderrOfATerminalIsIgnored: every client of containerd's Go library names a
// fifo that it has not made.
func TestStderrOfATerminalIsIgnored(t *testing.T) {
	out := fifo(t, "stdout")
	s := open(t, Config{Stdout: out, Stderr: filepath.Join(t.TempDir(), "missing"), Terminal: true})
	host, guest := pair(t)
	r := reader(t, out)
	s.Copy(Streams{Stdout: host})
	write(t, guest, "screen")
	s.Drain(6, 0)
	if got := readAll(t, r); got != "screen" {
		t.Errorf("read %q", got)
	}
}

func started(t *testing.T, s *Set) {
	t.Helper()
	if err := s.Started(); err != nil {
		t.Fatal(err)
	}
}

func TestHeldInputOutlivesItsWritersUntilClosed(t *testing.T) {
	path := fifo(t, "stdin")
	s := open(t, Config{Stdin: path, HoldStdin: true})
	host, guest := pair(t)
	s.Copy(Streams{Stdin: host})
	for _, part := range []string{"before ", "after"} {
		w := writer(t, path)
		write(t, w, part)
		_ = w.Close()
		if _, err := io.ReadFull(guest, make([]byte, len(part))); err != nil {
			t.Fatalf("after %q: %v", part, err)
		}
	}
	_ = s.CloseStdin()
	if got := readAll(t, guest); got != "" {
		t.Errorf("process read %q", got)
	}
}

func TestCloseStdinDeliversWhatWasWrittenBefore(t *testing.T) {
	for name, before := range map[string]bool{"while copying": false, "before copying": true} {
		t.Run(name, func(t *testing.T) {
			path := fifo(t, "stdin")
			s := open(t, Config{Stdin: path})
			host, guest := pair(t)
			w := writer(t, path) // stays open, as a client's may
			want := strings.Repeat("0123456789abcdef", 2<<10)
			if !before {
				s.Copy(Streams{Stdin: host})
			}
			write(t, w, want)
			_ = s.CloseStdin()
			if before {
				s.Copy(Streams{Stdin: host})
			}
			if got := readAll(t, guest); got != want {
				t.Errorf("process read %d bytes, want %d", len(got), len(want))
			}
		})
	}
}

func TestWriterIsToldWhenTheProcessStopsReading(t *testing.T) {
	path := fifo(t, "stdin")
	s := open(t, Config{Stdin: path})
	host, guest := pair(t)
	s.Copy(Streams{Stdin: host})
	w := writer(t, path)
	_ = guest.Close()
	var err error
	for err == nil {
		_, err = w.Write(make([]byte, 1<<16))
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v, want EPIPE", err)
	}
}

func TestCloseEndsEveryWait(t *testing.T) {
	stdin, stdout, stderr := fifo(t, "stdin"), fifo(t, "stdout"), fifo(t, "stderr")
	s := open(t, Config{Stdin: stdin, Stdout: stdout, Stderr: stderr, HoldStdin: true})
	in, _ := pair(t)
	out, _ := pair(t)
	errs, errsGuest := pair(t)
	s.Copy(Streams{Stdin: in, Stdout: out, Stderr: errs})
	go func() { _, _ = errsGuest.Write(make([]byte, 1<<20)) }() // nobody reads it
	w := writer(t, stdin)
	_ = w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = w.Write(make([]byte, 4<<20)) // nor this
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.Close()
		s.Drain(1, 1)
	}()
	await(t, "close", closed)
}

func TestFileIsCreatedAndAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "out.log")
	for range 2 {
		s := open(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
		out, outGuest := pair(t)
		errs, errsGuest := pair(t)
		s.Copy(Streams{Stdout: out, Stderr: errs})
		write(t, outGuest, "out\n")
		write(t, errsGuest, "err\n")
		s.Drain(4, 4)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Count(b, []byte("out\n")) != 2 || bytes.Count(b, []byte("err\n")) != 2 {
		t.Errorf("file holds %q (%v)", b, err)
	}
}

func TestLoggingProgramGetsBothStreams(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"binary", "binary-v2"} {
		t.Run(scheme, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			uri := fmt.Sprintf("%s://%s?logger=%s&mode=%s", scheme, self, path, scheme)
			s := open(t, Config{Stdout: uri, Stderr: uri, ID: "c1", Namespace: "ns"})
			out, outGuest := pair(t)
			errs, errsGuest := pair(t)
			s.Copy(Streams{Stdout: out, Stderr: errs})
			write(t, outGuest, "to stdout")
			write(t, errsGuest, "to stderr")
			s.Drain(9, 9)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if want := "c1 ns to stdout to stderr"; err != nil || string(b) != want {
				t.Errorf("the program logged %q (%v), want %q", b, err, want)
			}
		})
	}
}

func TestLoggingProgramThatIsNeverReadyIsAnError(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		"binary://" + self + "?logger=&mode=hang":   "until it is ready",
		"binary-v2://" + self + "?logger=&mode=die": "before it was ready",
		"binary:///no/such/program":                 "/no/such/program",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := Open(ctx, Config{Stdout: uri})
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s) = %v, want %q in it", uri, err, want)
		}
	}
}

// loggerMain is the logging program of the tests: argv is its log file, then
// "mode" and how to behave.
func loggerMain(args []string) int {
	ready := os.NewFile(5, "ready")
	switch args[2] {
	case "hang":
		_, _ = io.ReadAll(os.NewFile(3, "stdout")) // until the test gives up
		return 0
	case "die":
		return 1
	case "binary-v2":
		_, _ = ready.Write([]byte{0})
	}
	_ = ready.Close()
	out, _ := io.ReadAll(os.NewFile(3, "stdout"))
	errs, _ := io.ReadAll(os.NewFile(4, "stderr"))
	line := fmt.Sprintf("%s %s %s %s", os.Getenv("CONTAINER_ID"), os.Getenv("CONTAINER_NAMESPACE"), out, errs)
	if err := os.WriteFile(args[0], []byte(line), 0o600); err != nil {
		return 1
	}
	return 0
}

// trickle is a stream that gives a byte every second, for ever.
type trickle struct {
	net.Conn
	mu       sync.Mutex
	deadline time.Time
}

func (c *trickle) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

func (c *trickle) Read(b []byte) (int, error) {
	time.Sleep(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() && time.Now().After(c.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(b, "x"), nil
}

func TestATricklingAgentHoldsNoDrainUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput(nil)
		source := new(trickle)
		o.begin(source)
		go o.copyFrom(source)
		time.Sleep(time.Minute)
		begun := time.Now()
		o.drainTo(math.MaxUint64)
		<-o.done
		bound := drainGrace + MaxUnderWay*time.Second/drainRate
		if took := time.Since(begun); took < drainGrace || took > bound+2*time.Second {
			t.Errorf("the drain took %s, at most %s may it", took, bound)
		}
	})
}

// flood is a stream that gives bytes for ever, as fast as they are taken.
type flood struct{ trickle }

func (c *flood) Read(b []byte) (int, error) { return len(b), nil }

func TestAnAgentThatNeverEndsIsHeardNoFurtherThanWhatCanBeUnderWay(t *testing.T) {
	o := newOutput(nil)
	source := new(flood)
	o.begin(source)
	o.drainTo(math.MaxUint64)
	o.copyFrom(source)
	if got := o.total(); got < MaxUnderWay || got > MaxUnderWay+largeBuffer {
		t.Errorf("%d bytes were copied, want %d", got, MaxUnderWay)
	}
}

func TestATimeThatAReaderTakesIsNotTheAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput(nil)
		o.begin(new(trickle))
		o.drainTo(100)
		o.beginRead(o.source)
		time.Sleep(time.Second)
		o.endRead()
		left := o.patience
		time.Sleep(time.Hour) // it is written
		o.beginRead(o.source)
		o.endRead()
		if o.patience != left {
			t.Errorf("the agent has %s left, want %s", o.patience, left)
		}
	})
}
