package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestDial(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1024)
	if s.credit != defaultReceiveBuffer {
		t.Errorf("host grants %d bytes", s.credit)
	}
	if l, r := c.LocalAddr().(*Addr), c.RemoteAddr().(*Addr); l.Port != s.peer || l.CID != 2 || r.Port != 1024 || r.CID != 3 {
		t.Errorf("connection from %v to %v", l, r)
	}
	c2, s2 := g.dial(1024)
	if s2.peer == s.peer {
		t.Error("two connections from the same port")
	}
	c.Close()
	s.expect(opShutdown)
	c2.Close()
	s2.expect(opShutdown)
}

func TestDialRefused(t *testing.T) {
	g := startGuest(t, Config{})
	done := make(chan error, 1)
	go func() {
		_, err := g.dev.Dial(context.Background(), 7)
		done <- err
	}()
	h, _ := g.receive()
	g.send(header{srcPort: 7, dstPort: h.srcPort, op: opReset}, nil)
	err := <-done
	wantErr(t, "Dial", err, syscall.ECONNREFUSED)
	if want := "dial vsock 3:7: connection refused"; err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	g := startGuest(t, Config{})
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := g.dev.Dial(ctx, 7)
		done <- err
	}()
	h, _ := g.receive()
	cause := errors.New("enough")
	cancel(cause)
	wantErr(t, "Dial", <-done, cause)
	g.expect(opReset, h.srcPort, 7)
	// The guest's late answer finds nobody.
	g.send(header{srcPort: 7, dstPort: h.srcPort, op: opResponse}, nil)
	g.expect(opReset, h.srcPort, 7)
}

func TestDialWaitsForTheDriver(t *testing.T) {
	g := connectVMM(t, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := g.dev.Dial(ctx, 1024)
	wantErr(t, "Dial before the driver", err, context.DeadlineExceeded)

	done := make(chan error, 1)
	go func() {
		c, err := g.dev.Dial(context.Background(), 1024)
		if err == nil {
			err = c.Close()
		}
		done <- err
	}()
	g.Boot(2, queueSize)
	g.attach()
	g.offer(4)
	h, _ := g.receive()
	g.send(header{srcPort: 1024, dstPort: h.srcPort, op: opResponse}, nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	g := startGuest(t, Config{})
	l, err := g.dev.Listen(1028)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.dev.Listen(1028); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen = %v", err)
	}
	c, s := g.connect(l, 55)
	if l, r := c.LocalAddr().(*Addr), c.RemoteAddr().(*Addr); l.Port != 1028 || r.Port != 55 {
		t.Errorf("connection from %v to %v", l, r)
	}
	s.send(opData, 0, []byte("hello"))
	p := make([]byte, 10)
	if n, err := c.Read(p); string(p[:n]) != "hello" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}

	// One that nobody accepts is reset when the listener goes.
	g.send(header{srcPort: 56, dstPort: 1028, op: opRequest}, nil)
	g.expect(opResponse, 1028, 56)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	g.expect(opReset, 1028, 56)
	_, err = l.Accept()
	wantErr(t, "Accept", err, net.ErrClosed)
	g.send(header{srcPort: 57, dstPort: 1028, op: opRequest}, nil)
	g.expect(opReset, 1028, 57)

	// The port is free again; earlier connections live on.
	l, err = g.dev.Listen(1028)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.send(opData, 0, []byte("again"))
	if n, err := c.Read(p); string(p[:n]) != "again" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}
}

func TestHalfCloseByTheHost(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	if _, err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if _, data := s.expect(opData); string(data) != "last words" {
		t.Errorf("guest got %q", data)
	}
	if h, _ := s.expect(opShutdown); h.flags != shutSend {
		t.Errorf("shutdown flags %d", h.flags)
	}
	_, err := c.Write([]byte("x"))
	wantErr(t, "Write", err, syscall.EPIPE)
	s.send(opData, 0, []byte("answer"))
	s.send(opShutdown, shutBoth, nil)
	s.expect(opReset)
	if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	g.quiet()
}

func TestHalfCloseByTheGuest(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	s.send(opData, 0, []byte("last words"))
	s.send(opShutdown, shutSend, nil)
	if got, err := io.ReadAll(c); string(got) != "last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Error(err)
	}
	s.expect(opData)
	s.send(opShutdown, shutReceive, nil)
	_, err := c.Write([]byte("x"))
	wantErr(t, "Write", err, syscall.EPIPE)
	s.expect(opReset) // both halves are closed now
}

func TestCloseRead(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	s.send(opData, 0, []byte("unread"))
	if err := c.CloseRead(); err != nil {
		t.Fatal(err)
	}
	if h, _ := s.expect(opShutdown); h.flags != shutReceive || h.fwdCnt != 6 {
		t.Errorf("shutdown %+v", h)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v", n, err)
	}
	s.send(opData, 0, bytes.Repeat([]byte("x"), 64<<10)) // dropped
	if _, err := c.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	if h, _ := s.expect(opData); h.fwdCnt != 6+64<<10 {
		t.Errorf("host forwarded %d bytes", h.fwdCnt)
	}
}

func TestReset(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	s.send(opData, 0, []byte("last words"))
	s.send(opReset, 0, nil)
	got, err := io.ReadAll(c)
	if string(got) != "last words" {
		t.Errorf("read %q", got)
	}
	wantErr(t, "Read", err, syscall.ECONNRESET)
	_, err = c.Write([]byte("x"))
	wantErr(t, "Write", err, syscall.ECONNRESET)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantErr(t, "second Close", c.Close(), net.ErrClosed)
	g.quiet()
}

func TestCloseUnblocks(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "Read", err, net.ErrClosed)
	})
	wg.Go(func() {
		_, err := c.Write(make([]byte, 1<<20))
		wantErr(t, "Write", err, net.ErrClosed)
	})
	for range 256 << 10 / (roomSize - headerSize) {
		s.expect(opData)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "Read", err, net.ErrClosed)
	wantErr(t, "SetDeadline", c.SetDeadline(time.Time{}), net.ErrClosed)
	wantErr(t, "CloseWrite", c.CloseWrite(), net.ErrClosed)
}

func TestDeadlines(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	start := time.Now()
	if err := c.SetReadDeadline(start.Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "Read", err, os.ErrDeadlineExceeded)
	var nerr net.Error
	if !errors.As(err, &nerr) || !nerr.Timeout() {
		t.Errorf("%v is no time-out", err)
	}
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("Read gave up after %v", d)
	}
	// A deadline is for good until it is lifted; then data is there.
	s.send(opData, 0, []byte("x"))
	_, err = c.Read(make([]byte, 1))
	wantErr(t, "Read", err, os.ErrDeadlineExceeded)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Write([]byte("x"))
	wantErr(t, "Write", err, os.ErrDeadlineExceeded)

}

// unattached returns an open connection of a device without a VMM.
func unattached(t *testing.T) *Conn {
	t.Helper()
	cfg := Config{GuestCID: guestCID, Log: slog.New(slog.DiscardHandler)}
	if err := cfg.setDefaults(); err != nil {
		t.Fatal(err)
	}
	d := newDevice(cfg)
	c, err := d.newConn(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.accept(&header{bufAlloc: 100}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDeadlineThatIsMovedDoesNotFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := unattached(t)
		start := time.Now()
		if err := c.SetReadDeadline(start.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second / 2)
			if err := c.SetReadDeadline(start.Add(3 * time.Second)); err != nil {
				t.Error(err)
			}
		}()
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("Read gave up after %v", d)
		}
		_ = c.Close()
		c.kill(ErrGone)
	})
}

func TestClosedConnectionIsResetIfTheGuestDoesNotAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := unattached(t)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lingerTime - 1)
		synctest.Wait()
		if n := c.d.count(); n != 1 {
			t.Errorf("%d connections before the time is over", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := c.d.count(); n != 0 {
			t.Errorf("%d connections after it", n)
		}
		var ops []uint16
		for _, p := range c.d.rx.control {
			ops = append(ops, p.op)
		}
		if want := []uint16{opResponse, opShutdown, opReset}; !slices.Equal(ops, want) {
			t.Errorf("guest is told %v, want %v", ops, want)
		}
	})
}
